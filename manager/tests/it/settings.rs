//! What daemons are told, and when.

use flotilla_daemon::rpc::{self, SettingsClient};
use flotilla_daemon::settings::{Endpoint, GrantLife, Offline, Release, Upstream, Weight};
use flotilla_proto::RegistryHost;
use flotilla_proto::wire::manager::{EndpointHealth, EndpointReport, WatchRequest};
use tonic::Code;

use crate::harness::{Cluster, settled, within};
use crate::tls::to_pem;

#[tokio::test]
async fn a_registry_that_is_set_reaches_a_daemon_that_watches() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    settled(&mut settings, |settings| settings.revision > 0).await;

    cluster.run("registry set reg.test --url https://a.test --url https://b.test:5000").await.unwrap();
    let told = settled(&mut settings, |settings| !settings.registries.is_empty()).await;
    let upstream = told.upstream(&"reg.test".parse().unwrap()).unwrap();
    let urls: Vec<_> = upstream.endpoints.iter().map(|endpoint| endpoint.url.to_string()).collect();
    assert_eq!(urls, ["https://a.test", "https://b.test:5000"]);

    cluster.run("registry set reg.test --url http://c.test --address 10.9.9.9:80").await.unwrap();
    let told = settled(&mut settings, |settings| settings.registries[0].endpoints.len() == 1).await;
    assert_eq!(told.registries[0].endpoints[0].address, Some("10.9.9.9:80".parse().unwrap()));

    cluster.run("registry remove reg.test").await.unwrap();
    settled(&mut settings, |settings| settings.registries.is_empty()).await;
}

#[tokio::test]
async fn what_a_seed_finds_is_told_when_a_registry_is_set_and_shown_from_then_on() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let unasked = cluster.run("registry set old.test --url https://old.test").await.unwrap();
    assert!(unasked.contains("no seed is connected that could ask it"), "{unasked}");
    let (seed, peer) =
        (cluster.enrol("seed-0", "eu", "seed").await, cluster.enrol("node-1", "eu", "peer").await);
    let mut settings = cluster.watch(&seed, "10.0.0.1:4006");
    settled(&mut settings, |settings| settings.revision > 0).await;

    let down = EndpointHealth {
        host: "reg.test".into(),
        url: "https://reg.test".into(),
        since: 1_796_253_614,
        reason: "connection refused".into(),
        ..Default::default()
    };
    let find = async {
        let told = settled(&mut settings, |settings| settings.registries.len() == 2).await;
        let report = EndpointReport { revision: told.revision, endpoints: vec![down] };
        let mut client = SettingsClient::new(rpc::manager_channel(&peer));
        let refused = client.report_endpoints(report.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let mut client = SettingsClient::new(rpc::manager_channel(&seed));
        client.report_endpoints(report).await.unwrap();
    };
    let (set, ()) = tokio::join!(cluster.run("registry set reg.test --url https://reg.test"), find);
    let state = "https://reg.test  down since 2026-12-02T23:20:14Z (seed-0: connection refused)\n";
    assert_eq!(set.unwrap(), format!("registry reg.test set\n  {state}"));
    assert!(cluster.run("topology show").await.unwrap().contains(state));
    // The same again is no news to a seed, and needs none.
    let again = cluster.run("registry set reg.test --url https://reg.test").await.unwrap();
    assert_eq!(again, format!("registry reg.test set\n  {state}"));

    // Who is away says nothing of now.
    cluster.stop_watching().await;
    while cluster.run("topology show").await.unwrap().contains("down since") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn all_that_is_said_of_a_registry_reaches_a_daemon_that_watches() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    let ca_pem = to_pem(cluster.admin().ca());
    let ca_file = cluster.dir.path().join("ca.pem");
    std::fs::write(&ca_file, &ca_pem).unwrap();

    let first = format!(
        "https://a.test,weight=100,ca={},address=10.0.0.9:443,proxy=http://proxy.test:3128,\
        limit=50MB@22:00-06:00,limit=10MB",
        ca_file.display()
    );
    let line = format!(
        "registry set reg.test --endpoint {first} --endpoint http://b.test,standby --release verified \
        --proxy-cache --count-pulls false --offline granted --offline-for 24h --grants strict"
    );
    cluster.run(&line).await.unwrap();
    let told = settled(&mut settings, |settings| !settings.registries.is_empty()).await;
    let first = Endpoint {
        ca_pem: Some(ca_pem),
        address: Some("10.0.0.9:443".parse().unwrap()),
        weight: Weight::MAX,
        proxy: Some("http://proxy.test:3128".parse().unwrap()),
        caps: vec!["50 MB@22:00-06:00".parse().unwrap(), "10 MB".parse().unwrap()],
        ..Endpoint::new("https://a.test".parse().unwrap())
    };
    let second = Endpoint { standby: true, ..Endpoint::new("http://b.test".parse().unwrap()) };
    let host: RegistryHost = "reg.test".parse().unwrap();
    let expected = Upstream {
        release: Release::Verified,
        proxy_cache: true,
        count_pulls: false,
        offline: Offline::Granted { longer: Offline::LONGEST },
        grants: GrantLife::Strict,
        ..Upstream::new(host.clone(), vec![first, second.clone()]).unwrap()
    };
    assert_eq!(told.registries, [expected]);

    // Kept on the daemon's disk as it was told.
    cluster.stop_watching().await;
    cluster.stop_manager().await;
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    assert_eq!(settings.borrow().registries, told.registries);

    // What is not said again is forgotten.
    cluster.start_manager().await;
    cluster.run("registry set reg.test --url http://b.test").await.unwrap();
    let told = settled(&mut settings, |settings| settings.registries[0].count_pulls).await;
    let endpoint = Endpoint { standby: false, ..second };
    assert_eq!(told.registries, [Upstream::new(host, vec![endpoint]).unwrap()]);
}

#[tokio::test]
async fn schedulers_and_seeds_are_told_of_in_their_own_region() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.run("region add us").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    for (id, region, role, address) in [
        ("far-seed", "us", "seed", "10.2.0.1:4006"),
        ("planner", "eu", "scheduler", "10.0.0.2:4003"),
        ("seed-0", "eu", "seed", "10.0.0.3:4006"),
    ] {
        let daemon = cluster.enrol(id, region, role).await;
        let mut own = cluster.watch(&daemon, address);
        settled(&mut own, |settings| settings.revision > 0).await;
    }
    let told = settled(&mut settings, |settings| !settings.seeds.is_empty()).await;
    assert_eq!(told.schedulers[0].address, "10.0.0.2:4003".parse().unwrap());
    assert_eq!(told.seeds.len(), 1);
    assert_eq!(told.seeds[0].id.as_str(), "seed-0");
}

#[tokio::test]
async fn settings_outlive_a_manager_that_is_down_and_follow_it_when_it_is_back() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.run("registry set reg.test --url https://reg.test").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    let before = settled(&mut settings, |settings| settings.revision > 0).await;
    cluster.stop_manager().await;
    cluster.stop_watching().await;

    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    assert_eq!(*settings.borrow(), before);

    cluster.start_manager().await;
    cluster.run("registry set other.test --url https://other.test").await.unwrap();
    let after = settled(&mut settings, |settings| settings.registries.len() == 2).await;
    assert!(after.revision > before.revision);
}

#[tokio::test]
async fn a_stream_ends_when_the_manager_stops_so_that_it_can_stop() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    settled(&mut settings, |settings| settings.revision > 0).await;
    let started = tokio::time::Instant::now();
    cluster.stop_manager().await;
    assert!(started.elapsed().as_secs() < 4, "the grace of 5 s is for calls that hang");
}

#[tokio::test]
async fn a_daemon_is_shown_as_connected_while_it_watches() {
    let mut cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    assert!(!is_connected(&cluster).await);
    let mut settings = cluster.watch(&peer, "10.0.0.1:4006");
    settled(&mut settings, |settings| settings.revision > 0).await;
    assert!(is_connected(&cluster).await);
}

#[tokio::test]
async fn a_daemon_that_is_removed_loses_its_stream() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut client = SettingsClient::new(rpc::manager_channel(&peer));
    let request = WatchRequest { address: "10.0.0.1:4006".into(), ..Default::default() };
    let mut stream = client.watch(request.clone()).await.unwrap().into_inner();
    within(stream.message()).await.unwrap().unwrap();
    cluster.run("peer remove node-1").await.unwrap();
    let ended = within(stream.message()).await.unwrap_err();
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert_eq!(client.watch(request).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_daemon_must_say_where_it_is() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let mut client = SettingsClient::new(rpc::manager_channel(&peer));
    let request = WatchRequest { address: "nowhere".into(), ..Default::default() };
    let refused = client.watch(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("address `nowhere`: "), "{refused}");
}

async fn is_connected(cluster: &Cluster) -> bool {
    let daemons = cluster.run("peer list --output json").await.unwrap();
    let daemons: serde_json::Value = serde_json::from_str(&daemons).unwrap();
    daemons[0]["connected"].as_bool().unwrap()
}
