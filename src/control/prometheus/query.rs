//! Instant queries to a Prometheus server, over its HTTP API.
//!
//! Only a single value is a usable result. An empty result, not-a-number, several series, and a
//! sample that is too old are kept apart, and none of them ever counts as a failure of the async
//! path. The age of the newest sample is queried for every metric that a query names.

use std::collections::BTreeMap;

use bytes::Bytes;
use form_urlencoded::Serializer;
use futures_util::future::{join_all, try_join_all};
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::promql::extract_metric_names;
use crate::config::{GateConfig, GateKind, PrometheusConfig};
use crate::outbound::{build_request, send_request};
use crate::rollout::format::format_exact_span;
use crate::rollout::gate::PrometheusSample;

#[derive(Deserialize)]
struct PrometheusReply {
    data: Option<PrometheusData>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum PrometheusData {
    Vector(Vec<PrometheusSeries>),
    Scalar((f64, String)),
    Matrix(IgnoredAny),
    String(IgnoredAny),
}

#[derive(Deserialize)]
struct PrometheusSeries {
    value: (f64, String),
}

/// Sends the queries of all `prometheus` gates at once; the samples by gate name.
pub(crate) async fn query_gates(
    server: &PrometheusConfig,
    gates: &[GateConfig],
) -> BTreeMap<String, PrometheusSample> {
    let queries = gates.iter().filter_map(|gate| match &gate.kind {
        GateKind::PrometheusQuery { query, .. } => Some((gate.name.clone(), query)),
        _ => None,
    });
    let samples =
        queries.map(|(gate, query)| async move { (gate, query_prometheus(server, query).await) });
    join_all(samples).await.into_iter().collect()
}

/// Sends one query. A metric that it names must have a sample no older than `max_sample_age`.
pub async fn query_prometheus(server: &PrometheusConfig, query: &str) -> PrometheusSample {
    query_fresh_sample(server, query).await.unwrap_or_else(PrometheusSample::Unavailable)
}

/// The names of all metrics of the server.
///
/// # Errors
/// Why they cannot be fetched.
pub async fn fetch_metric_names(server: &PrometheusConfig) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct MetricNames {
        data: Vec<String>,
    }
    let base = server.url.read_current().map_err(|why| format!("its URL cannot be read: {why}"))?;
    let url = format!("{}/api/v1/label/__name__/values", base.trim_end_matches('/'));
    let request = build_request(Method::GET, &url, Bytes::new())?;
    let (status, body) = send_request(request, server.query_timeout).await?;
    let names = serde_json::from_slice(&body).map(|MetricNames { data }| data);
    names.map_err(|_| format!("it answered {status}, and not as Prometheus does"))
}

async fn query_fresh_sample(
    server: &PrometheusConfig,
    query: &str,
) -> Result<PrometheusSample, String> {
    let base = server.url.read_current().map_err(|why| format!("its URL cannot be read: {why}"))?;
    let sample = query_instant(server, &base, query).await?;
    if let PrometheusSample::Value(_) = sample {
        // an instant query has the time of the request, and uses samples of the last five minutes
        let age_checks = extract_metric_names(query)
            .into_iter()
            .map(|name| reject_stale_sample(server, &base, name));
        try_join_all(age_checks).await?;
    }
    Ok(sample)
}

/// Fails if the newest sample of the metric is too old.
async fn reject_stale_sample(
    server: &PrometheusConfig,
    base: &str,
    name: String,
) -> Result<(), String> {
    let age = query_instant(server, base, &format!("time() - max(timestamp({name}))")).await?;
    match age {
        PrometheusSample::Value(age) if age > server.max_sample_age.as_secs_f64() => {
            let limit = format_exact_span(server.max_sample_age);
            Err(format!("the newest sample of {name} is {age:.0} s old, more than {limit}"))
        }
        _ => Ok(()),
    }
}

async fn query_instant(
    server: &PrometheusConfig,
    base: &str,
    query: &str,
) -> Result<PrometheusSample, String> {
    let limit = format!("{}ms", server.query_timeout.as_millis());
    let url = format!("{}/api/v1/query", base.trim_end_matches('/'));
    let body = Serializer::new(String::new())
        .append_pair("query", query)
        .append_pair("timeout", &limit)
        .finish();
    let mut request = build_request(Method::POST, &url, Bytes::from(body))?;
    let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(header::CONTENT_TYPE, content_type);
    let (status, body) = send_request(request, server.query_timeout).await?;
    parse_reply(status, &body)
}

fn parse_reply(status: StatusCode, body: &[u8]) -> Result<PrometheusSample, String> {
    let Ok(reply) = serde_json::from_slice::<PrometheusReply>(body) else {
        return Err(format!("it answered {status}, and not as Prometheus does"));
    };
    if let Some(error) = reply.error {
        return Err(error);
    }
    let sample = |text: &str| match text.parse::<f64>() {
        Ok(value) if value.is_finite() => PrometheusSample::Value(value),
        _ => PrometheusSample::NotANumber,
    };
    match reply.data {
        Some(PrometheusData::Scalar((_, text))) => Ok(sample(&text)),
        Some(PrometheusData::Vector(series)) => match series.as_slice() {
            [] => Ok(PrometheusSample::Empty),
            [series] => Ok(sample(&series.value.1)),
            more => Err(format!(
                "the query gives {} series and must give one: aggregate it, as with max(…)",
                more.len()
            )),
        },
        Some(PrometheusData::Matrix(_) | PrometheusData::String(_)) => {
            Err("the query must give one number, not a range or a text".into())
        }
        None => Err(format!("it answered {status} without a result")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_sample(body: &str) -> Result<PrometheusSample, String> {
        parse_reply(StatusCode::OK, body.as_bytes())
    }

    #[test]
    fn every_kind_of_prometheus_response_is_distinguished() {
        let vector = |result: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#)
        };
        assert_eq!(
            parse_sample(&vector(r#"[{"metric":{},"value":[1.5,"0.25"]}]"#)),
            Ok(PrometheusSample::Value(0.25))
        );
        assert_eq!(parse_sample(&vector("[]")), Ok(PrometheusSample::Empty));
        assert_eq!(
            parse_sample(&vector(r#"[{"metric":{},"value":[1,"NaN"]}]"#)),
            Ok(PrometheusSample::NotANumber)
        );
        assert_eq!(
            parse_sample(&vector(r#"[{"metric":{},"value":[1,"+Inf"]}]"#)),
            Ok(PrometheusSample::NotANumber)
        );
        let two = r#"[{"metric":{"a":"1"},"value":[1,"1"]},{"metric":{"a":"2"},"value":[1,"2"]}]"#;
        assert!(parse_sample(&vector(two)).is_err_and(|why| why.contains("2 series")));
        assert_eq!(
            parse_sample(r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#),
            Ok(PrometheusSample::Value(7.0))
        );
        let wrong = r#"{"status":"error","errorType":"bad_data","error":"unknown function"}"#;
        assert_eq!(parse_sample(wrong), Err("unknown function".into()));
        assert!(parse_sample("<html>").is_err());
    }
}
