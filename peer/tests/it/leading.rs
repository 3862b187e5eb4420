//! A registry that leads the seed somewhere gets nothing from there to a client.

use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

#[tokio::test]
async fn a_registry_that_leads_the_seed_to_its_own_ports_is_refused_by_name() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let manifest = "/v2/app/manifests/v1";
    region.one.client.mirror(manifest).await;
    let layer = blob_path("app", &blob);
    let own =
        [format!("http://{}/status", region.seed.admin), format!("http://{}/v2/", region.seed.client.door)];
    for place in own {
        for path in [manifest, &layer] {
            region.registry.redirect(path, &place);
            let answer = region.two.client.mirror(path).await;
            assert_eq!(answer.status, 502, "{answer:?}");
            let (_, message) = answer.error();
            assert!(
                message.contains("where this seed itself listens") && message.contains(HOST),
                "{message}"
            );
        }
    }
}
