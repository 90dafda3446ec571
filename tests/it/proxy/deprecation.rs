//! Telling legacy clients to move on, in every mode, and hot.

use serde_json::json;

use crate::support::scenario::scenario;

#[tokio::test]
async fn clients_are_walked_from_none_through_announce_and_redirect_to_gone() {
    let mut omni = scenario()
        .yaml(
            "routes.invoke.deprecation",
            json!({
                "mode": "none",
                "deprecated_at": "2026-12-01T00:00:00Z",
                "sunset_at": "2027-06-01T00:00:00Z",
                "successor": "/invoke/async",
                "link": "/docs/deprecation",
                "permanent": false,
            }),
        )
        .start()
        .await;
    let call = json!({"task": "t"});

    let plain = omni.data_client().post("/invoke", &call).await;
    assert_eq!((plain.status.as_u16(), plain.header("deprecation")), (200, None));

    omni.apply_setting("routes.invoke.deprecation.mode", "announce").await;
    let announced = omni.data_client().post("/invoke", &call).await;
    assert_eq!(announced.status, 200);
    assert_eq!(announced.header("deprecation"), Some("@1796083200"));
    assert_eq!(announced.header("sunset"), Some("Tue, 01 Jun 2027 00:00:00 GMT"));
    let links: Vec<_> =
        announced.headers.get_all("link").iter().filter_map(|link| link.to_str().ok()).collect();
    assert_eq!(
        links,
        ["</invoke/async>; rel=\"successor-version\"", "</docs/deprecation>; rel=\"deprecation\""]
    );

    omni.apply_setting("routes.invoke.deprecation.mode", "redirect").await;
    let redirected = omni.data_client().post("/invoke?next=//evil", &call).await;
    assert_eq!(
        (redirected.status.as_u16(), redirected.header("location")),
        (307, Some("/invoke/async"))
    );
    assert!(redirected.header("deprecation").is_some() && redirected.header("sunset").is_some());

    omni.apply_setting("routes.invoke.deprecation.permanent", true).await;
    assert_eq!(omni.data_client().post("/invoke", &call).await.status, 308);

    omni.apply_setting("routes.invoke.deprecation.mode", "gone").await;
    let gone = omni.data_client().post("/invoke", &call).await;
    assert_eq!(
        (gone.status.as_u16(), gone.header("content-type")),
        (410, Some("application/problem+json"))
    );
    assert!(gone.text().contains("/invoke/async"));
    assert_eq!(
        omni.data_client().post("/invoke/async", &call).await.status,
        202,
        "the successor is not deprecated"
    );
    assert_eq!(omni.upstream().fetch_requests().await.by_id.len(), 0);

    for (mode, times) in [("announce", 1.0), ("redirect", 2.0), ("gone", 1.0)] {
        let labels = [("route", "invoke"), ("mode", mode)];
        assert_eq!(
            omni.metric_value("omnidaemon_deprecated_requests_total", &labels).await,
            times,
            "{mode}"
        );
    }

    omni.apply_setting("routes.invoke.deprecation.mode", "off").await;
    assert_eq!(omni.data_client().post("/invoke", &call).await.status, 200);
}
