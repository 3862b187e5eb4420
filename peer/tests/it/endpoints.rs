//! How a seed finds the registries' endpoints, as people see it at the manager.

use flotilla_proto::wire::manager::{Empty, Endpoint, EndpointHealth, Registry};
use tokio::net::TcpListener;

use crate::cluster::within;
use crate::region::Region;
use crate::registry::HOST;

#[tokio::test]
async fn a_registry_that_is_set_with_a_dead_host_is_shown_as_down_at_once() {
    let region = Region::start().await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let endpoint = Endpoint { url: format!("http://{nobody}"), ..Default::default() };
    let dead = Registry { host: "dead.test".into(), endpoints: vec![endpoint], ..Default::default() };
    region.cluster.topology().set_registry(dead).await.unwrap();

    let health = within(found(&region, "dead.test")).await;
    assert!(!health.up && health.since > 0, "{health:?}");
    assert!(health.reason.contains("refused"), "{health:?}");
    assert_eq!(health.url, format!("http://{nobody}"));
    let alive = within(found(&region, HOST)).await;
    assert!(alive.up && alive.reason.is_empty(), "{alive:?}");
    assert_eq!(alive.seed, health.seed);
}

async fn found(region: &Region, host: &str) -> EndpointHealth {
    let mut turn = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        turn.tick().await;
        let registries = region.cluster.topology().list_registries(Empty {}).await.unwrap().into_inner();
        if let Some(health) = registries.health.into_iter().find(|health| health.host == host) {
            return health;
        }
    }
}
