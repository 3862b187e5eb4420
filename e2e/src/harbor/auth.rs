//! Who gets in, what those who do not are told, and the token service (§2.1).

use hyper::header::AUTHORIZATION;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::accounts::{Accounts, Caller};
use super::answer::{Answer, JSON};
use super::behaviour::Behaviour;
use super::call::{Call, Resource, Route, project_of};
use super::token::SERVICE;

/// What a request below `/v2` is told that may not pass. Reads of a repository need an
/// `Authorization` header even where nobody needs an account.
pub(super) fn refusal(accounts: &Accounts, call: &Call, caller: &Caller) -> Option<Answer> {
    match call.route() {
        Route::Base if caller.is_authenticated() => None,
        Route::Base => Some(unauthorized(&challenge(call), "unauthorized")),
        Route::Catalog if accounts.is_admin(caller) => None,
        Route::Catalog => Some(unauthorized(BASIC, "unauthorized to list catalog")),
        Route::Repository(name, _) => repository_refusal(accounts, call, caller, name),
        Route::Token | Route::Unknown => Some(unauthorized("", "unauthorized")),
    }
}

fn repository_refusal(accounts: &Accounts, call: &Call, caller: &Caller, name: &str) -> Option<Answer> {
    let shows_nothing = !call.headers.contains_key(AUTHORIZATION) && *caller == Caller::Anonymous;
    if call.is_read() && shows_nothing {
        return Some(unauthorized(&challenge(call), "authorize header needed to send HEAD to repository"));
    }
    let mut needs = vec![(name.to_owned(), action(&call.method))];
    if let (Route::Repository(_, Resource::Uploads), Some(from)) = (call.route(), call.query_value("from")) {
        needs.push((from, "pull"));
    }
    needs.into_iter().find_map(|(repository, action)| {
        let project = project_of(&repository);
        if accounts.project(project).is_none() {
            return Some(unauthorized("", &format!("project {project} not found")));
        }
        let message = format!("unauthorized to access repository: {repository}, action: {action}");
        let allowed = accounts.may(caller, action, project);
        (!allowed).then(|| unauthorized(&challenge(call), &message))
    })
}

/// `GET /service/token`. A wrong password is no error as long as a scope is asked for: the
/// caller gets what anybody gets.
pub(super) fn token_service(accounts: &mut Accounts, behaviour: &Behaviour, call: &Call) -> Answer {
    if call.method != Method::GET {
        return Answer::method_not_allowed();
    }
    if call.query_value("service").as_deref() != Some(SERVICE) {
        let body = "Unable to handle service";
        return Answer { status: StatusCode::BAD_REQUEST, ..Answer::ok("text/plain; charset=utf-8", body) };
    }
    let caller = accounts.identify(call, behaviour.token_leeway);
    let scopes = call.query_values("scope");
    let scopes: Vec<_> = scopes.iter().flat_map(|scopes| scopes.split(' ')).map(str::to_owned).collect();
    if scopes.is_empty() && !caller.is_authenticated() {
        return Answer::new(StatusCode::UNAUTHORIZED);
    }
    let token = accounts.issue(&caller, &scopes, call.at, behaviour.token_life);
    let body = json!({
        "token": token,
        "access_token": "",
        "expires_in": behaviour.token_life.as_secs(),
        // Clients count the life from here.
        "issued_at": humantime::format_rfc3339_seconds(call.at).to_string(),
    });
    Answer::ok(JSON, body.to_string())
}

/// Who tried and failed is not sent to the token service again.
fn challenge(call: &Call) -> String {
    if call.headers.contains_key(AUTHORIZATION) {
        return BASIC.to_owned();
    }
    // Since 2.14 the realm is on the host that the caller named.
    let host = call.header("host").unwrap_or_default();
    let bearer = format!("Bearer realm=\"https://{host}/service/token\",service=\"{SERVICE}\"");
    match scopes(call) {
        scopes if scopes.is_empty() => bearer,
        scopes => format!("{bearer},scope=\"{}\"", scopes.join(" ")),
    }
}

fn scopes(call: &Call) -> Vec<String> {
    let Route::Repository(name, resource) = call.route() else { return Vec::new() };
    let actions = match action(&call.method) {
        "push" => "pull,push",
        action => action,
    };
    let mut scopes = vec![format!("repository:{name}:{actions}")];
    if let (Resource::Uploads, Some(from)) = (resource, call.query_value("from")) {
        scopes.push(format!("repository:{from}:pull"));
    }
    scopes
}

/// What a method needs the permission for.
fn action(method: &Method) -> &'static str {
    match *method {
        Method::POST | Method::PATCH | Method::PUT => "push",
        Method::DELETE => "delete",
        _ => "pull",
    }
}

fn unauthorized(challenge: &str, message: &str) -> Answer {
    Answer::error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
        .with("docker-distribution-api-version", "registry/2.0")
        .with("www-authenticate", challenge)
}

const BASIC: &str = "Basic realm=\"harbor\"";
