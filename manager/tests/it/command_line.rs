//! What people type, and what they read.

use crate::harness::{Cluster, helps, run_as};
use crate::tls::to_pem;

#[tokio::test]
async fn regions_come_and_go() {
    let cluster = Cluster::start().await;
    let added = cluster.run("region add eu-west --description Dublin").await.unwrap();
    assert_eq!(added, "region eu-west added\n");
    let table = cluster.run("region list").await.unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["NAME", "DESCRIPTION"], ["eu-west", "Dublin"]]);
    cluster.run("region remove eu-west").await.unwrap();
    assert_eq!(cluster.run("region list --output json").await.unwrap(), "[]\n");
}

#[tokio::test]
async fn every_refusal_names_the_thing() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.enrol("node-1", "eu", "peer").await;
    let no_certificate = cluster.dir.path().join("no-certificate.pem");
    std::fs::write(&no_certificate, "nothing of the kind").unwrap();
    let ca = no_certificate.display();
    for (line, expected) in [
        ("region add eu".to_owned(), "region `eu` exists already"),
        ("region remove eu".to_owned(), "region `eu` has 1 daemons"),
        ("region remove us".to_owned(), "there is no region `us`"),
        ("region add Not_A_Label".to_owned(), "'Not_A_Label'"),
        ("token create --region us --role peer".to_owned(), "there is no region `us`"),
        ("token create --region eu --role king".to_owned(), "'king'"),
        ("token create --region eu --role admin".to_owned(), "[possible values: scheduler, peer, seed]"),
        ("token create --region eu --role peer --lifetime 10years".to_owned(), "366 days"),
        ("token revoke 0000".to_owned(), "there is no join token `0000`"),
        ("registry set https://reg.test --url https://a".to_owned(), "'https://reg.test'"),
        ("registry set reg.test --url ftp://reg.test".to_owned(), "endpoint `ftp://reg.test`"),
        (
            "registry set reg.test --url https://reg.test --ca /nonexistent/ca".to_owned(),
            "read /nonexistent/ca",
        ),
        (
            format!("registry set reg.test --url https://reg.test --ca {ca}"),
            "endpoint `https://reg.test`: the CA file",
        ),
        ("registry set reg.test --url http://reg.test --address nowhere".to_owned(), "'nowhere'"),
        (
            "registry set reg.test --url https://a --endpoint https://b".to_owned(),
            "'--url <URL>' cannot be used with '--endpoint",
        ),
        ("registry set reg.test --ca ca.pem".to_owned(), "--url <URL>"),
        ("registry set reg.test --endpoint https://a,wieght=2".to_owned(), "did you mean `weight`?"),
        ("registry set reg.test --endpoint https://a,standby".to_owned(), "one endpoint that is no standby"),
        (
            "registry set reg.test --endpoint https://a,proxy=http://u:p@b".to_owned(),
            "proxy: a proxy's URL holds no credentials",
        ),
        (
            "registry set reg.test --url https://a --release fast".to_owned(),
            "[possible values: streaming, verified]",
        ),
        ("registry set reg.test --url https://a --offline-for 1h".to_owned(), "goes with offline granted"),
        (
            "registry set reg.test --url https://a --offline granted --offline-for 25h".to_owned(),
            "offline-for is at most 24h, not 1day 1h",
        ),
        ("registry remove reg.test".to_owned(), "there is no registry `reg.test`"),
        ("peer remove node-2".to_owned(), "there is no daemon `node-2`"),
    ] {
        let error = cluster.run(&line).await.unwrap_err();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[tokio::test]
async fn a_registry_is_listed_as_it_was_set() {
    let cluster = Cluster::start().await;
    let ca_file = cluster.dir.path().join("ca.pem");
    std::fs::write(&ca_file, to_pem(cluster.admin().ca())).unwrap();
    let line = format!(
        "registry set Reg.Test:443 --url https://a.test --url http://b.test --ca {}",
        ca_file.display()
    );
    cluster.run(&line).await.unwrap();
    let listed = cluster.run("registry list --output json").await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["host"], "reg.test");
    assert!(listed[0]["endpoints"][0]["ca_pem"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert!(listed[0]["endpoints"][1]["ca_pem"].is_null());
    assert!(cluster.run("registry list").await.unwrap().contains("https://a.test"));
}

#[tokio::test]
async fn what_differs_from_the_defaults_is_shown_as_it_is_written() {
    let cluster = Cluster::start().await;
    cluster.run("registry set a.test --url https://a.test").await.unwrap();
    cluster
        .run(
            "registry set b.test --proxy-cache --count-pulls false --offline granted --offline-for 90m --grants strict --trust ours \
            --endpoint https://b.test,weight=2,proxy=http://proxy.test:3128,limit=50MB@08:00-18:00 \
            --endpoint https://c.test,standby",
        )
        .await
        .unwrap();
    let options = "proxy-cache,count-pulls=false,offline=granted,offline-for=1h 30m,grants=strict,trust=ours";
    let first = "weight=2,proxy=http://proxy.test:3128,limit=50 MB@08:00-18:00";

    let table = cluster.run("registry list").await.unwrap();
    let cells: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    assert_eq!(cells[1], ["a.test", "https://a.test", "system", "-", "-", "-"]);
    assert_eq!(cells[2], ["b.test", "https://b.test", "system", "-", first, options]);
    assert_eq!(cells[3], ["b.test", "https://c.test", "system", "-", "standby", options]);

    let tree = cluster.run("topology show").await.unwrap();
    let expected = format!(
        "├─ a.test\n\
         │  └─ https://a.test\n\
         └─ b.test  {options}\n   \
            ├─ https://b.test  {first}\n   \
            └─ https://c.test  standby\n"
    );
    assert!(tree.ends_with(&expected), "{tree}");

    let listed = cluster.run("registry list --output json").await.unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let expected = serde_json::json!([
        {
            "host": "a.test",
            "release": "streaming",
            "proxy_cache": false,
            "count_pulls": true,
            "offline": "refuse",
            "offline_for": null,
            "grants": "cached",
            "trust": null,
            "endpoints": [{
                "url": "https://a.test", "ca_pem": null, "address": null,
                "weight": 1, "standby": false, "proxy": null, "limits": [], "health": [],
            }],
        },
        {
            "host": "b.test",
            "release": "streaming",
            "proxy_cache": true,
            "count_pulls": false,
            "offline": "granted",
            "offline_for": "1h 30m",
            "grants": "strict",
            "trust": "ours",
            "endpoints": [
                {
                    "url": "https://b.test", "ca_pem": null, "address": null,
                    "weight": 2, "standby": false, "proxy": "http://proxy.test:3128",
                    "limits": ["50 MB@08:00-18:00"], "health": [],
                },
                {
                    "url": "https://c.test", "ca_pem": null, "address": null,
                    "weight": 1, "standby": true, "proxy": null, "limits": [], "health": [],
                },
            ],
        },
    ]);
    assert_eq!(listed, expected);
    let yaml = cluster.run("topology show --output yaml").await.unwrap();
    assert!(yaml.contains("standby: true") && yaml.contains("50 MB@08:00-18:00"), "{yaml}");
}

#[tokio::test]
async fn tokens_are_listed_without_their_secret() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let shown = cluster.run("token create --region eu --role seed --uses 2 --lifetime 10m").await.unwrap();
    assert!(shown.starts_with("join token ") && shown.contains("\nflt1_"), "{shown}");
    let listed = cluster.run("token list").await.unwrap();
    assert!(listed.contains("seed") && !listed.contains("flt1_"), "{listed}");
}

#[tokio::test]
async fn the_topology_is_shown_as_a_tree_and_for_scripts() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    cluster.run("registry set reg.test --url https://reg.test --address 10.0.0.9:443").await.unwrap();
    cluster.enrol("node-1", "eu", "peer").await;
    let tree = cluster.run("topology show").await.unwrap();
    let expected = "regions\n\
        └─ eu\n   \
           └─ peer node-1  -  away\n\
        registries\n\
        └─ reg.test\n   \
           └─ https://reg.test  at 10.0.0.9:443\n";
    assert_eq!(tree, expected);
    let yaml = cluster.run("topology show --output yaml").await.unwrap();
    assert!(yaml.contains("id: node-1") && yaml.contains("host: reg.test"), "{yaml}");
}

#[tokio::test]
async fn a_manager_that_does_not_answer_is_named() {
    let mut cluster = Cluster::start().await;
    cluster.stop_manager().await;
    let error = cluster.run("region list").await.unwrap_err();
    let expected = format!("the manager at https://{} does not answer (connect to ", cluster.address);
    assert!(error.starts_with(&expected) && error.contains("FLOTILLA_MANAGER"), "{error}");
}

#[tokio::test]
async fn a_missing_identity_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let error = run_as("https://127.0.0.1:4000", dir.path(), "region list").await.unwrap_err();
    let expected = format!("no identity in {}", dir.path().display());
    assert!(error.starts_with(&expected) && error.contains("FLOTILLA_IDENTITY"), "{error}");
}

#[tokio::test]
async fn a_manager_of_another_cluster_is_not_believed() {
    let (cluster, other) = tokio::join!(Cluster::start(), Cluster::start());
    let url = format!("https://{}", other.address);
    let error = run_as(&url, &cluster.admin_dir(), "region list").await.unwrap_err();
    assert!(error.contains("does not answer") && error.contains("certificate"), "{error}");
}

#[test]
fn every_verb_shows_an_example() {
    let helps = helps();
    assert_eq!(helps.len(), 12);
    for (verb, help) in helps {
        assert!(help.contains(&format!("flotilla {verb}")) && help.contains("Example"), "{verb}: {help}");
    }
}
