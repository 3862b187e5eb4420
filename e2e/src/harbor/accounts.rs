//! Projects, accounts and what each may do (§2.1).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::call::{Call, Credential, project_of};
use super::proxy_cache::ProxyCache;
use super::token::{Claims, Grant, Life, Tokens};

/// Who may read a project without an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    Private,
    /// All who ask for a token.
    Public,
}

/// All projects and accounts.
#[derive(Debug)]
pub(super) struct Accounts {
    pub(super) tokens: Tokens,
    project_by_name: BTreeMap<String, Project>,
    account_by_name: BTreeMap<String, Account>,
    /// Accounts that a secret stands for without a name, however it is shown.
    account_by_session: BTreeMap<String, String>,
}

/// A project's settings.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) access: Access,
    /// The message of the policy that no manifest of the project passes.
    pub(super) policy: Option<String>,
    pub(super) proxy_cache: Option<ProxyCache>,
    /// Tokens from before it are not good here.
    created_serial: u64,
}

/// Who an account is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything everywhere.
    Admin,
    /// Pulls and pushes in its projects.
    User,
    /// Pulls from its projects.
    Robot,
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) secret: String,
    pub(super) role: Role,
    pub(super) projects: BTreeSet<String>,
}

/// Who a request is judged as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    /// Also who could not prove what they said.
    Anonymous,
    Account(String),
    Bearer(Claims),
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self {
            tokens: Tokens::new(),
            project_by_name: BTreeMap::new(),
            account_by_name: BTreeMap::new(),
            account_by_session: BTreeMap::new(),
        }
    }

    /// Adds a project or changes what it is. One that is already there keeps its age and its
    /// policy.
    pub(super) fn set_project(&mut self, name: &str, access: Access, proxy_cache: Option<ProxyCache>) {
        let created_serial = self.tokens.serial();
        let new = || Project { access, policy: None, proxy_cache: None, created_serial };
        let project = self.project_by_name.entry(name.to_owned()).or_insert_with(new);
        project.access = access;
        project.proxy_cache = proxy_cache;
    }

    pub(super) fn remove_project(&mut self, name: &str) {
        self.project_by_name.remove(name);
    }

    pub(super) fn project(&self, name: &str) -> Option<&Project> {
        self.project_by_name.get(name)
    }

    pub(super) fn project_mut(&mut self, name: &str) -> Option<&mut Project> {
        self.project_by_name.get_mut(name)
    }

    pub(super) fn set_account(&mut self, name: &str, account: Account) {
        self.account_by_name.insert(name.to_owned(), account);
    }

    pub(super) fn remove_account(&mut self, name: &str) {
        self.account_by_name.remove(name);
    }

    pub(super) fn set_session(&mut self, secret: &str, account: &str) {
        self.account_by_session.insert(secret.to_owned(), account.to_owned());
    }

    /// Who the request's `Authorization` proves, or where there is none, a session. A token counts below `/v2` only.
    pub(super) fn identify(&self, call: &Call, leeway: Duration) -> Caller {
        match call.credential() {
            Credential::None => {
                let shown = call.sessions().into_iter();
                let known = shown.filter_map(|secret| self.account_by_session.get(&secret)).next();
                known.map_or(Caller::Anonymous, |name| Caller::Account(name.clone()))
            }
            Credential::Unreadable => Caller::Anonymous,
            Credential::Basic { name, secret } => self.log_in(&name, &secret),
            Credential::Bearer(token) if call.path.starts_with("/v2") => {
                self.tokens.verify(token, call.at, leeway).map_or(Caller::Anonymous, Caller::Bearer)
            }
            Credential::Bearer(_) => Caller::Anonymous,
        }
    }

    pub(super) fn log_in(&self, name: &str, secret: &str) -> Caller {
        let known = self.account_by_name.get(name).is_some_and(|account| account.secret == secret);
        if known { Caller::Account(name.to_owned()) } else { Caller::Anonymous }
    }

    pub(super) fn is_admin(&self, caller: &Caller) -> bool {
        self.account(caller).is_some_and(|account| account.role == Role::Admin)
    }

    /// Whether `caller` may `pull`, `push` or `delete` in a project that is there. A valid
    /// token speaks for itself alone: not even a public project is open to another's.
    pub(super) fn may(&self, caller: &Caller, action: &str, project_name: &str) -> bool {
        let Some(project) = self.project(project_name) else { return false };
        let open = project.access == Access::Public && action == "pull";
        match caller {
            Caller::Anonymous => open,
            Caller::Account(_) => {
                open || self.account(caller).is_some_and(|account| account.may(action, project_name))
            }
            Caller::Bearer(claims) => {
                claims.serial() >= project.created_serial && claims.allows(action, project_name)
            }
        }
    }

    /// A token for each scope of the form `repository:<name>:<actions>`. What is asked for does
    /// not matter: the token states all that the caller may do there, even if that is nothing.
    pub(super) fn issue(
        &mut self,
        caller: &Caller,
        scopes: &[String],
        from: SystemTime,
        life: Duration,
    ) -> String {
        let names = scopes.iter().filter_map(|scope| scope.split(':').nth(1));
        let grants = names.map(|name| self.grant(caller, name)).collect();
        let subject = if let Caller::Account(name) = caller { name } else { "" };
        self.tokens.issue(subject, grants, Life { from, life })
    }

    fn grant(&self, caller: &Caller, repository: &str) -> Grant {
        let allowed = |action: &&str| self.may(caller, action, project_of(repository));
        let mut actions: Vec<_> = ["pull", "push", "delete"].into_iter().filter(allowed).collect();
        if actions.len() == 3 {
            actions.push("*");
        }
        let actions = actions.into_iter().map(str::to_owned).collect();
        Grant { kind: "repository".to_owned(), name: repository.to_owned(), actions }
    }

    fn account(&self, caller: &Caller) -> Option<&Account> {
        let Caller::Account(name) = caller else { return None };
        self.account_by_name.get(name)
    }
}

impl Account {
    pub(super) fn new(secret: &str, role: Role, projects: &[&str]) -> Self {
        let projects = projects.iter().map(|&project| project.to_owned()).collect();
        Self { secret: secret.to_owned(), role, projects }
    }

    fn may(&self, action: &str, project: &str) -> bool {
        let member = self.projects.contains(project);
        match self.role {
            Role::Admin => true,
            Role::User => member && matches!(action, "pull" | "push"),
            Role::Robot => member && action == "pull",
        }
    }
}

impl Caller {
    /// Whether it has a name: `/v2/` is for those only.
    pub(super) fn is_authenticated(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Account(_) => true,
            Self::Bearer(claims) => !claims.sub.is_empty(),
        }
    }
}
