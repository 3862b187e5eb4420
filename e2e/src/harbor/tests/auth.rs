//! §2.1: challenges, tokens, accounts.

use std::time::Duration;

use hyper::Method;

use super::*;
use crate::harbor::token::read as token_claims;

const BASIC: &str = "Basic realm=\"harbor\"";

#[test]
fn the_base_asks_for_a_token_of_the_host_that_was_named() {
    let lab = Lab::start();
    let reply = lab.ask(Ask::get("/v2/").header("host", "mirror.test"));
    let bearer = "Bearer realm=\"https://mirror.test/service/token\",service=\"harbor-registry\"";
    assert_eq!(reply.challenge(), bearer);
    assert_eq!(reply.code(), "UNAUTHORIZED");
}

#[test]
fn the_base_opens_to_a_name_and_not_to_an_anonymous_token() {
    let lab = Lab::start();
    let ask = || Ask::get("/v2/");
    assert_eq!(lab.ask_as_alice(ask()).status, 200);
    let named = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    assert_eq!(lab.ask(ask().bearer(&named)).status, 200);
    let anonymous = lab.harbor.token(None, "pub/app");
    assert_eq!(lab.ask(ask().bearer(&anonymous)).challenge(), BASIC);
}

#[test]
fn a_read_without_authorization_is_challenged_even_in_a_public_project() {
    let lab = Lab::start();
    for repository in ["priv/app", "pub/app", "nowhere/app"] {
        let scope = format!(",scope=\"repository:{repository}:pull\"");
        assert!(lab.ask(manifest(repository, "v1")).challenge().ends_with(&scope));
        assert_eq!(lab.ask(manifest(repository, "v1").head()).status, 401);
        let blob = Ask::get(blob_path(repository, Digest::of(b"x")));
        assert!(lab.ask(blob).challenge().ends_with(&scope));
    }
}

#[test]
fn a_private_project_answers_a_bad_credential_with_basic() {
    let lab = Lab::start();
    let ask = || manifest("priv/app", "v1");
    assert_eq!(lab.ask(ask().bearer("garbage")).challenge(), BASIC);
    assert_eq!(lab.ask(ask().basic("alice", "wrong")).challenge(), BASIC);
    assert_eq!(lab.ask(ask().header("authorization", "none")).challenge(), BASIC);
    assert_eq!(lab.ask(ask().bearer(&lab.harbor.token(None, "priv/app"))).challenge(), BASIC);
    let elsewhere = lab.harbor.token(None, "pub/app");
    assert_eq!(lab.ask(ask().bearer(&elsewhere)).challenge(), BASIC);
    let good = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    assert_eq!(lab.ask(ask().bearer(&good)).status, 200);
    lab.harbor.expire_tokens();
    assert_eq!(lab.ask(ask().bearer(&good)).challenge(), BASIC);
}

#[test]
fn a_public_project_refuses_nothing_but_a_valid_token_of_another() {
    let lab = Lab::start();
    let ask = || manifest("pub/app", "v1");
    let expired = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    lab.harbor.expire_tokens();
    assert_eq!(lab.ask(ask().bearer("garbage")).status, 200);
    assert_eq!(lab.ask(ask().basic("alice", "wrong")).status, 200);
    assert_eq!(lab.ask(ask().bearer(&expired)).status, 200);
    let valid = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    assert_eq!(lab.ask(ask().bearer(&valid)).challenge(), BASIC);
}

#[test]
fn who_names_no_project_or_path_that_is_there_gets_an_empty_challenge() {
    let lab = Lab::start();
    assert_eq!(lab.ask_as_alice(manifest("nowhere/app", "v1")).challenge(), "");
    assert_eq!(lab.ask_as_alice(Ask::get("/v2/priv/app/other/v1")).challenge(), "");
}

#[test]
fn a_token_is_good_for_its_whole_project_and_no_other() {
    let lab = Lab::start();
    lab.harbor.add_project("other", Access::Private);
    let other = image("priv/other", Format::Oci, 3);
    lab.harbor.publish(&other, "v1");
    lab.harbor.publish(&image("other/app", Format::Oci, 3), "v1");
    let token = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    assert_eq!(lab.ask(manifest("priv/other", "v1").bearer(&token)).status, 200);
    assert_eq!(lab.ask(manifest("other/app", "v1").bearer(&token)).status, 401);
}

#[test]
fn a_project_made_again_does_not_take_tokens_from_before() {
    let lab = Lab::start();
    let token = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    lab.harbor.remove_project("priv");
    lab.harbor.add_project("priv", Access::Private);
    assert_eq!(lab.ask(manifest("priv/app", "v1").bearer(&token)).challenge(), BASIC);
    let token = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    assert_eq!(lab.ask(manifest("priv/app", "v1").bearer(&token)).status, 200);
}

#[test]
fn robots_and_users_get_in_by_basic_alone() {
    let lab = Lab::start();
    assert_eq!(lab.ask(manifest("priv/app", "v1").basic("robot$x", "token")).status, 200);
    assert_eq!(lab.ask(manifest("priv/app", "v1").basic("alice", "secret")).status, 200);
}

#[test]
fn a_removed_account_fails_at_once_and_its_token_lives_on() {
    let lab = Lab::start();
    let token = lab.harbor.token(Some(("robot$x", "token")), "priv/app");
    lab.harbor.remove_account("robot$x");
    assert_eq!(lab.ask(manifest("priv/app", "v1").basic("robot$x", "token")).challenge(), BASIC);
    assert_eq!(lab.ask(manifest("priv/app", "v1").bearer(&token)).status, 200);
}

#[test]
fn the_token_service_takes_get_for_its_service_only() {
    let lab = Lab::start();
    assert_eq!(lab.ask(token("repository:priv/app:pull").with(Method::POST)).status, 405);
    assert_eq!(lab.ask(Ask::get("/service/token?service=other&scope=repository:priv/app:pull")).status, 400);
    assert_eq!(lab.ask(Ask::get("/service/token?scope=repository:priv/app:pull")).status, 400);
}

#[test]
fn the_token_service_states_all_that_the_caller_may_do() {
    let lab = Lab::start();
    let actions = |ask| actions(&lab.ask(ask));
    let ask = || token("repository%3Apriv%2Fapp%3Apull");
    assert_eq!(actions(ask().basic("alice", "secret")), ["pull", "push"]);
    assert_eq!(actions(ask().basic("robot$x", "token")), ["pull"]);
    assert_eq!(actions(token("repository:pub/app:pull,push")), ["pull"]);
    lab.harbor.add_admin("admin", "Harbor12345");
    assert_eq!(actions(ask().basic("admin", "Harbor12345")), ["pull", "push", "delete", "*"]);
}

#[test]
fn missing_permission_and_a_wrong_password_are_200_with_nothing_in_it() {
    let lab = Lab::start();
    let ask = || token("repository:priv/app:pull");
    assert!(actions(&lab.ask(ask())).is_empty());
    let reply = lab.ask(ask().basic("alice", "wrong"));
    assert!(actions(&reply).is_empty());
    assert_eq!(claims(&reply)["sub"], "");
    assert!(actions(&lab.ask(token("repository:nowhere/app:pull"))).is_empty());
}

#[test]
fn without_a_scope_the_token_service_wants_to_know_who_asks() {
    let lab = Lab::start();
    let ask = || Ask::get("/service/token?service=harbor-registry&account=alice");
    for reply in [lab.ask(ask()), lab.ask(ask().basic("alice", "wrong"))] {
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, None));
        assert!(reply.body.is_empty());
    }
    assert_eq!(claims(&lab.ask_as_alice(ask()))["sub"], "alice");
}

#[test]
fn a_token_lives_as_long_as_it_states_and_a_leeway() {
    let lab = Lab::start();
    let reply = lab.ask_as_alice(token("repository:priv/app:pull"));
    assert_eq!(reply.json()["expires_in"], 1800);
    assert_eq!(reply.json()["access_token"], "");
    let claims = claims(&reply);
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 1800);

    lab.harbor.configure(|behaviour| behaviour.token_life = Duration::ZERO);
    let token = lab.harbor.token(Some(("alice", "secret")), "priv/app");
    let ask = || manifest("priv/app", "v1").bearer(&token);
    assert_eq!(lab.ask(ask()).status, 200);
    lab.harbor.configure(|behaviour| behaviour.token_leeway = Duration::ZERO);
    assert_eq!(lab.ask(ask()).challenge(), BASIC);
}

#[test]
fn core_sets_a_cookie_and_hsts_on_every_answer() {
    let lab = Lab::start();
    for reply in [
        lab.ask(Ask::get("/v2/")),
        lab.ask(token("repository:priv/app:pull")),
        lab.ask_as_alice(manifest("priv/app", "v1")),
        lab.ask(lab.layer()),
    ] {
        assert!(reply.header("set-cookie").unwrap().starts_with("sid="));
        assert!(reply.header("strict-transport-security").is_some());
    }
}

fn token(scope: &str) -> Ask {
    Ask::get(format!("/service/token?service=harbor-registry&scope={scope}"))
}

fn claims(reply: &Reply) -> serde_json::Value {
    assert_eq!(reply.status, 200);
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    serde_json::to_value(token_claims(&token).unwrap()).unwrap()
}

fn actions(reply: &Reply) -> Vec<String> {
    let claims = claims(reply);
    assert_eq!(claims["access"][0]["type"], "repository");
    let actions = claims["access"][0]["actions"].as_array().unwrap().iter();
    actions.map(|action| action.as_str().unwrap().to_owned()).collect()
}
