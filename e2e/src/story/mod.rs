//! The stories.

mod bad_config;
mod bad_registry;
mod container;
mod damage;
mod demo;
mod faults;
mod grant;
mod harbor;
mod lab;
mod lifecycle;
mod matrix;
mod offline;
mod pull;
mod resume;
mod secrets;
mod stage;
mod stalled;
mod suite;
mod systemd;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::client::{Client, FrontDoor};
use crate::conformance;
use crate::origin::Setup;
use crate::runner::House;
use crate::stage::Stage;

/// One story.
#[derive(Debug)]
pub struct Story {
    /// Chosen by it, listed by it.
    pub name: &'static str,
    /// A story that takes longer has failed.
    pub deadline: Duration,
    /// What must be done outside the stage, where there is a network: gets the house and the story's
    /// own directory.
    pub prepare: fn(house: &House, store: &Path) -> Result<()>,
    /// Plays it.
    pub tell: fn(&Stage) -> Result<()>,
    /// The environment variable that names a program which no Debian package has. Unset, the story is ignored.
    pub program: Option<&'static str>,
}

impl Story {
    const fn new(name: &'static str, tell: fn(&Stage) -> Result<()>) -> Self {
        Self { name, deadline: Duration::from_secs(240), prepare: |_, _| Ok(()), tell, program: None }
    }

    /// One on machines that systemd boots, with the package installed.
    const fn on_machines(name: &'static str, tell: fn(&Stage) -> Result<()>) -> Self {
        Self { prepare: systemd::prepare, ..Self::new(name, tell) }
    }
}

/// All of them, from the ground up.
pub const ALL: &[Story] = &[
    Story::new("stage_keeps_clients_from_the_registry", stage::keeps_clients_from_the_registry),
    Story::new("stage_log_tells_one_read_from_two", stage::log_tells_one_read_from_two),
    Story::new("pull_docker_proxy", |stage| pull::once(stage, Client::Docker, FrontDoor::Proxy)),
    Story::new("pull_ctr_mirror", |stage| pull::once(stage, Client::Ctr, FrontDoor::Mirror)),
    Story::new("pull_ctr_proxy", |stage| pull::once(stage, Client::Ctr, FrontDoor::Proxy)),
    Story::new("pull_skopeo_proxy", |stage| pull::once(stage, Client::Skopeo, FrontDoor::Proxy)),
    Story::new("pull_skopeo_mirror", |stage| pull::once(stage, Client::Skopeo, FrontDoor::Mirror)),
    Story::new("pull_skopeo_prefix", |stage| pull::once(stage, Client::Skopeo, FrontDoor::Prefix)),
    Story::new("pull_buildah_mirror", |stage| pull::once(stage, Client::Buildah, FrontDoor::Mirror)),
    Story::new("pull_podman_mirror", |stage| pull::once(stage, Client::Podman, FrontDoor::Mirror)),
    Story::new("small_layers_come_whole", pull::small_layers_come_whole),
    Story::new("harbor_private_pull", harbor::private_pull),
    Story::new("small_image_costs_two_round_trips", harbor::small_image_costs_two_round_trips),
    Story::new("matrix_proxy", |stage| matrix::door(stage, FrontDoor::Proxy)),
    Story::new("matrix_mirror", |stage| matrix::door(stage, FrontDoor::Mirror)),
    Story::new("matrix_prefix", |stage| matrix::door(stage, FrontDoor::Prefix)),
    Story::new("matrix_sni", |stage| matrix::door(stage, FrontDoor::Sni)),
    Story::new("door_authorities_outlive_a_restart", lifecycle::authorities_outlive_a_restart),
    Story::new("door_leaves_other_hosts_alone", lifecycle::other_hosts_are_tunnels),
    Story::new("secrets_are_in_no_file", secrets::are_in_no_file),
    Story::new("faults_are_bridged", faults::are_bridged),
    Story::new("faults_ten_peers_at_a_slow_registry", faults::ten_peers_at_a_slow_registry),
    Story::new("faults_wrong_content_reaches_no_client", faults::wrong_content_reaches_no_client),
    Story::new("faults_bad_certificate_is_named", faults::bad_certificate_is_named),
    Story::new("faults_hang_is_told_in_time", faults::hang_is_told_in_time),
    Story::new("offline_granted_serves_what_the_region_holds", offline::granted_serves_what_the_region_holds),
    Story::new("damaged_disk_reaches_no_client", damage::reaches_no_client),
    Story::new("a_basic_grant_ends_by_itself", grant::of_basic_ends_by_itself),
    Story::new("conformance_harbor", conformance::of_harbor),
    Story::new("conformance_docker_registry", |stage| conformance::of_docker_registry(stage, Setup::Plain)),
    Story::new("conformance_htpasswd", |stage| conformance::of_docker_registry(stage, Setup::Htpasswd)),
    Story::new("conformance_s3", |stage| conformance::of_docker_registry(stage, Setup::S3)),
    Story {
        program: Some(suite::PROGRAM),
        ..Story::new("oci_suite_finds_at_the_proxy_what_it_finds_directly", suite::finds_the_same)
    },
    Story::new("security_on_a_warm_cache", conformance::on_a_warm_cache),
    Story::new("peer_killed_mid_pull_keeps_what_it_announced", resume::killed_peer_keeps_what_it_announced),
    Story {
        // Some of its clients wait for others of the same user to be cut.
        deadline: Duration::from_secs(600),
        ..Story::new("stalled_clients_take_a_bounded_part", stalled::clients_take_a_bounded_part)
    },
    Story::new("demo_reads_the_registry_once", demo::reads_the_registry_once),
    Story::new("demo_of_tiny_layers_reads_the_registry_once", demo::of_tiny_layers_reads_the_registry_once),
    Story::new("the_lab_does_what_the_simulator_says", lab::does_what_the_simulator_says),
    Story::new(
        "a_peer_that_lies_keeps_nobody_from_the_layer",
        lab::a_peer_that_lies_keeps_nobody_from_the_layer,
    ),
    Story::new("the_lab_keeps_to_a_send_bandwidth", lab::keeps_to_a_send_bandwidth),
    Story::new("the_lab_keeps_to_a_receive_bandwidth", lab::keeps_to_a_receive_bandwidth),
    Story::new("unknown_registry_is_named", bad_registry::unknown_registry_is_named),
    Story::new("hung_registry_is_reported_in_time", bad_registry::hung_registry_is_reported_in_time),
    Story::new("stopped_registry_is_reported_in_time", bad_registry::stopped_registry_is_reported_in_time),
    Story::new("wrong_bytes_reach_no_client", bad_registry::wrong_bytes_reach_no_client),
    Story::new("unknown_config_key_is_named", bad_config::unknown_key_is_named),
    Story::new("wrong_join_token_is_refused", bad_config::wrong_join_token_is_refused),
    Story::new("port_in_use_is_named", bad_config::port_in_use_is_named),
    Story::new("sample_configs_are_valid", container::sample_configs_are_valid),
    Story {
        deadline: Duration::from_secs(600),
        prepare: container::prepare,
        ..Story::new("peer_runs_in_a_container", container::peer_runs_in_a_container)
    },
    Story::on_machines("systemd_first_start_without_dns_waits", systemd::first_start_without_dns),
    Story::on_machines("systemd_starts_killed_or_hung_daemons_again", systemd::killed_or_hung),
    Story::on_machines(
        "systemd_node_with_ipv6_alone_finds_a_manager_that_moved",
        systemd::ipv6_alone_and_a_manager_that_moved,
    ),
    Story::on_machines("systemd_registry_that_is_set_wrong_is_told", systemd::registry_set_wrong),
    Story::on_machines("systemd_removed_daemons_join_again", systemd::removed_and_enrolled_again),
    Story::on_machines(
        "systemd_package_is_upgraded_removed_and_purged",
        systemd::upgraded_removed_and_purged,
    ),
];
