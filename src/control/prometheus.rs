//! Instant queries to a Prometheus server, by its HTTP API.
//!
//! One value is an answer. Nothing, not-a-number, more than one series, and a sample that is too old are each told apart:
//! none of them is ever taken for a failure of the async path. How old a sample is, is asked for every metric that the query
//! names.

use std::collections::BTreeMap;

use bytes::Bytes;
use form_urlencoded::Serializer;
use futures_util::future::{join_all, try_join_all};
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::calls;
use super::promql::metrics_of;
use crate::config::{Gate, GateKind, Prometheus};
use crate::rollout::gate::Sample;
use crate::rollout::words::exact;

#[derive(Deserialize)]
struct Reply {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar((f64, String)),
    Matrix(IgnoredAny),
    String(IgnoredAny),
}

#[derive(Deserialize)]
struct Series {
    value: (f64, String),
}

/// Asks the queries of all gates that have one, at once.
pub(super) async fn ask_all(server: &Prometheus, gates: &[Gate]) -> BTreeMap<String, Sample> {
    let asked = gates.iter().filter_map(|gate| match &gate.kind {
        GateKind::Prometheus { query, .. } => Some((gate.name.clone(), query)),
        _ => None,
    });
    let samples = asked.map(|(gate, text)| async move { (gate, self::query(server, text).await) });
    join_all(samples).await.into_iter().collect()
}

/// Asks one query.
pub async fn query(server: &Prometheus, query: &str) -> Sample {
    ask(server, query).await.unwrap_or_else(Sample::Unavailable)
}

/// The names of all metrics that the server has.
///
/// # Errors
/// Why they are not known.
pub async fn metric_names(server: &Prometheus) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Names {
        data: Vec<String>,
    }
    let base = server.url.current().map_err(|why| format!("its URL cannot be read: {why}"))?;
    let url = format!("{}/api/v1/label/__name__/values", base.trim_end_matches('/'));
    let (status, body) = calls::send(calls::request(Method::GET, &url, Bytes::new())?, server.timeout).await?;
    let names = serde_json::from_slice(&body).map(|Names { data }| data);
    names.map_err(|_| format!("it answered {status}, and not as Prometheus does"))
}

async fn ask(server: &Prometheus, query: &str) -> Result<Sample, String> {
    let base = server.url.current().map_err(|why| format!("its URL cannot be read: {why}"))?;
    let asked = answer(server, &base, query).await?;
    if let Sample::Value(_) = asked {
        // an instant query gives the time that it was asked for, and looks back for five minutes
        let ages = metrics_of(query).into_iter().map(|name| refuse_stale(server, &base, name));
        try_join_all(ages).await?;
    }
    Ok(asked)
}

/// Whether the newest sample of a metric is fresh enough.
async fn refuse_stale(server: &Prometheus, base: &str, name: String) -> Result<(), String> {
    let age = answer(server, base, &format!("time() - max(timestamp({name}))")).await?;
    match age {
        Sample::Value(age) if age > server.max_staleness.as_secs_f64() => {
            let limit = exact(server.max_staleness);
            Err(format!("the newest sample of {name} is {age:.0} s old, more than {limit}"))
        }
        _ => Ok(()),
    }
}

async fn answer(server: &Prometheus, base: &str, query: &str) -> Result<Sample, String> {
    let limit = format!("{}ms", server.timeout.as_millis());
    let url = format!("{}/api/v1/query", base.trim_end_matches('/'));
    let body = Serializer::new(String::new()).append_pair("query", query).append_pair("timeout", &limit).finish();
    let mut request = calls::request(Method::POST, &url, Bytes::from(body))?;
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    request.headers_mut().insert(header::CONTENT_TYPE, kind);
    let (status, body) = calls::send(request, server.timeout).await?;
    read(status, &body)
}

fn read(status: StatusCode, body: &[u8]) -> Result<Sample, String> {
    let Ok(reply) = serde_json::from_slice::<Reply>(body) else {
        return Err(format!("it answered {status}, and not as Prometheus does"));
    };
    if let Some(error) = reply.error {
        return Err(error);
    }
    let one = |text: &str| match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Sample::Value(value),
        _ => Sample::NotANumber,
    };
    match reply.data {
        Some(Data::Scalar((_, text))) => Ok(one(&text)),
        Some(Data::Vector(series)) => match series.as_slice() {
            [] => Ok(Sample::Empty),
            [series] => Ok(one(&series.value.1)),
            more => {
                Err(format!("the query gives {} series and must give one: aggregate it, as with max(…)", more.len()))
            }
        },
        Some(Data::Matrix(_) | Data::String(_)) => Err("the query must give one number, not a range or a text".into()),
        None => Err(format!("it answered {status} without a result")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(body: &str) -> Result<Sample, String> {
        read(StatusCode::OK, body.as_bytes())
    }

    #[test]
    fn what_prometheus_answers_is_told_apart() {
        let vector =
            |result: &str| format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#);
        assert_eq!(sample(&vector(r#"[{"metric":{},"value":[1.5,"0.25"]}]"#)), Ok(Sample::Value(0.25)));
        assert_eq!(sample(&vector("[]")), Ok(Sample::Empty));
        assert_eq!(sample(&vector(r#"[{"metric":{},"value":[1,"NaN"]}]"#)), Ok(Sample::NotANumber));
        assert_eq!(sample(&vector(r#"[{"metric":{},"value":[1,"+Inf"]}]"#)), Ok(Sample::NotANumber));
        let two = r#"[{"metric":{"a":"1"},"value":[1,"1"]},{"metric":{"a":"2"},"value":[1,"2"]}]"#;
        assert!(sample(&vector(two)).is_err_and(|why| why.contains("2 series")));
        assert_eq!(
            sample(r#"{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}"#),
            Ok(Sample::Value(7.0))
        );
        let wrong = r#"{"status":"error","errorType":"bad_data","error":"unknown function"}"#;
        assert_eq!(sample(wrong), Err("unknown function".into()));
        assert!(sample("<html>").is_err());
    }
}
