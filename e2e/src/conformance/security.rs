//! Who may not have a blob gets none of it, though both peers have it: the registry's own answer
//! is all there is (docs/design.md §7).

use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderName;

use super::content::OCI_MANIFEST;
use super::row::{Row, Who};
use super::rows::Registry;
use super::suite::{Plan, Suite};
use crate::harbor::{Access, Behaviour, Harbor};
use crate::image::{Blob, Format, Image, ImageSpec};
use crate::region::Region;
use crate::stage::{REGION_IP, Stage};

/// Plays all attacks on a warm cache.
pub(crate) fn on_a_warm_cache(stage: &Stage) -> Result<()> {
    let harbor = Harbor::start(stage)?;
    let scene = Scene::set(&harbor);
    let region = Region::up(stage, harbor.ca(), 2)?;
    stage.assert_fenced()?;
    let plan = Plan {
        registry: Registry::Harbor,
        ca: harbor.ca(),
        accounts: &[None],
        repositories: &[],
        stores_elsewhere: false,
    };
    let suite = Suite::new(stage, &region, plan)?;
    suite.play(|_| scene.granted())?;
    suite.play(|_| SESSIONS.iter().flat_map(|session| scene.opened_by(session)).collect())?;

    let warm = harbor.log();
    harbor.remove_account(GONE.0);
    harbor.expire_tokens();
    let strangers = strangers(&harbor);
    suite.play(|_| scene.taken_back())?;
    suite.play(|_| strangers.iter().flat_map(|(name, who)| scene.refused(name, who)).collect())?;
    suite.play(|_| SESSIONS.iter().flat_map(|session| scene.not_opened_by(session)).collect())?;
    suite.play(|_| scene.forged())?;
    suite.play(|_| scene.still_granted())?;
    let since = harbor.log().since(&warm).from(REGION_IP);
    since.assert_no_blob_read().with_context(|| format!("for an attack:\n{since}"))?;
    region.assert_no_error_logged()
}

/// What there is to attack.
struct Scene {
    image: Image,
    /// Of the holder, which expires in between.
    token: String,
}

impl Scene {
    fn set(harbor: &Harbor) -> Self {
        let image = ImageSpec { format: Format::Oci, layer_lens: vec![3 << 20, 200_000, 10] };
        let image = image.build(TARGET, 1);
        for project in ["priv", "mine"] {
            harbor.add_project(project, Access::Private);
        }
        harbor.add_robot(HOLDER.0, HOLDER.1, &["priv"]);
        harbor.add_robot(GONE.0, GONE.1, &["priv"]);
        harbor.add_robot(ATTACKER.0, ATTACKER.1, &["mine"]);
        harbor.add_user(USER.0, USER.1, &[]);
        harbor.add_session(SESSION, HOLDER.0);
        harbor.publish(&image, "v1");
        // The attacker's own project has the manifest, and none of what it names.
        harbor.publish_manifest(FORGED, "v1", OCI_MANIFEST, image.manifest.content());
        let token = bearer(&harbor.token(Some(HOLDER), TARGET));
        Self { image, token }
    }

    /// Those who may have it get it, so that the peers hold it, and grants for them.
    fn granted(&self) -> Vec<Row> {
        let who = [
            ("holder", basic(HOLDER)),
            ("member_to_go", basic(GONE)),
            ("token_to_expire", self.token.clone()),
        ];
        who.iter().flat_map(|(name, credential)| self.served(name, credential)).collect()
    }

    /// Who shows something else than `Authorization` gets what the registry gives, from there.
    fn opened_by(&self, session: &Session) -> Vec<Row> {
        let row = |what: &str| {
            let name = format!("{}_{what}", session.name);
            Row::new(name, "the registry decides, and nobody else", RULE).who(Who::Nobody)
        };
        let mut rows =
            vec![session.shown(manifest(row("manifest"), TARGET), SESSION).whole(&self.image.manifest)];
        for (index, of) in self.image.blobs().enumerate() {
            let get = row(&format!("blob_{index}")).get(blob(TARGET, of));
            rows.push(session.shown(get, SESSION).whole(of));
        }
        rows
    }

    /// What a session opened is open to nobody without it, nor to another.
    fn not_opened_by(&self, session: &Session) -> Vec<Row> {
        let mut rows = self.refused(&format!("after_{}", session.name), &Who::Nobody);
        let guessing = self.refused(&format!("guessed_{}", session.name), &Who::Nobody);
        rows.extend(guessing.into_iter().map(|row| session.shown(row, "guess")));
        rows
    }

    /// The others' refusals are not the holder's.
    fn still_granted(&self) -> Vec<Row> {
        self.served("holder_after_all", &basic(HOLDER))
    }

    fn served(&self, name: &str, credential: &str) -> Vec<Row> {
        let showing = || Who::Showing(credential.to_owned());
        let row =
            |what: &str| Row::new(format!("{name}_{what}"), "who may have it gets it", RULE).who(showing());
        let mut rows = vec![manifest(row("manifest"), TARGET).whole(&self.image.manifest)];
        let blobs = self.image.blobs().enumerate();
        rows.extend(blobs.map(|(index, of)| row(&format!("blob_{index}")).get(blob(TARGET, of)).whole(of)));
        rows
    }

    /// Who was let in before asks for the manifest first: the refusal takes back its grants.
    fn taken_back(&self) -> Vec<Row> {
        let gone = Who::Showing(basic(GONE));
        let expired = Who::Showing(self.token.clone());
        let mut rows = self.manifest_refused("member_gone", &gone);
        rows.extend(self.refused("member_gone", &gone));
        rows.extend(self.manifest_refused("token_expired", &expired));
        rows.extend(self.refused("token_expired", &expired));
        rows
    }

    fn manifest_refused(&self, name: &str, who: &Who) -> Vec<Row> {
        let row = |what: &str| Row::new(format!("{name}_{what}"), "the registry's own answer", RULE);
        vec![
            refused(manifest(row("get_manifest"), TARGET), who).code("UNAUTHORIZED"),
            refused(row("head_manifest").accept(OCI_MANIFEST).head(format!("{TARGET}/manifests/v1")), who),
        ]
    }

    /// Blobs first: nothing has said yet who asks.
    fn refused(&self, name: &str, who: &Who) -> Vec<Row> {
        let row = |what: &str| Row::new(format!("{name}_{what}"), "and not a byte of the blob", RULE);
        let [large, small, tiny] = &self.image.layers[..] else { unreachable!("three layers are built") };
        let get = |what, of: &Blob| refused(row(what).get(blob(TARGET, of)), who).code("UNAUTHORIZED");
        let mut rows = vec![
            get("large", large),
            get("small", small),
            get("tiny", tiny),
            get("config", &self.image.config),
            get("part", large).range("bytes=1048576-1048675"),
            get("one_byte", large).range("bytes=0-0"),
            refused(row("head_large").head(blob(TARGET, large)), who),
        ];
        rows.extend(self.manifest_refused(&format!("{name}_then"), who));
        rows
    }

    /// The attacker may have the manifest that names another project's blobs, and not them.
    fn forged(&self) -> Vec<Row> {
        let who = Who::Showing(basic(ATTACKER));
        let row = |what: &str| {
            let why = "a manifest in one's own project opens no other's blob";
            Row::new(format!("forged_{what}"), why, RULE).who(who.clone())
        };
        let unknown = |row: Row| row.status(&[404]).says("flotilla-refused-by", "registry");
        let mut rows = vec![manifest(row("manifest"), FORGED).whole(&self.image.manifest)];
        for (index, of) in self.image.blobs().enumerate() {
            let get = || row(&format!("get_blob_{index}")).get(blob(FORGED, of));
            rows.push(unknown(get()).code("BLOB_UNKNOWN"));
            rows.push(unknown(row(&format!("head_blob_{index}")).head(blob(FORGED, of))));
        }
        let part = row("part").get(blob(FORGED, &self.image.layers[0])).range("bytes=1048576-1048675");
        rows.push(unknown(part).code("BLOB_UNKNOWN"));
        rows.push(manifest(row("manifest_again"), FORGED).whole(&self.image.manifest));
        rows
    }
}

/// Those whom the registry never let in, each with what it shows.
fn strangers(harbor: &Harbor) -> Vec<(&'static str, Who)> {
    let showing = |value: String| Who::Showing(value);
    let others = harbor.token(Some(ATTACKER), FORGED);
    let asked_for = harbor.token(Some(ATTACKER), TARGET);
    let nobodys = harbor.token(None, TARGET);
    let good = harbor.token(Some(HOLDER), TARGET);
    // With the good token's claims and another's signature.
    let (claims, _) = good.rsplit_once('.').expect("a token is signed");
    let (_, signature) = others.rsplit_once('.').expect("a token is signed");
    let no_life = |behaviour: &mut Behaviour| {
        (behaviour.token_life, behaviour.token_leeway) = (Duration::ZERO, Duration::ZERO);
    };
    harbor.configure(no_life);
    let expired = harbor.token(Some(HOLDER), TARGET);
    vec![
        ("nobody", Who::Nobody),
        ("wrong_password", showing(basic((HOLDER.0, "guess")))),
        ("other_user", showing(basic(USER))),
        ("other_project", showing(basic(ATTACKER))),
        ("other_project_token", showing(bearer(&others))),
        ("token_without_rights", showing(bearer(&asked_for))),
        ("token_of_nobody", showing(bearer(&nobodys))),
        ("token_born_expired", showing(bearer(&expired))),
        ("token_forged", showing(bearer(&format!("{claims}.{signature}")))),
        ("token_of_ours", showing(bearer("flotilla-own.Z3Vlc3M"))),
        ("other_scheme", showing("Negotiate Z3Vlc3M=".to_owned())),
    ]
}

/// A way to show a secret that is no `Authorization`.
struct Session {
    name: &'static str,
    place: Place,
}

enum Place {
    Header(&'static str, &'static str),
    Query(&'static str),
}

impl Session {
    /// The row, asked with this secret.
    fn shown(&self, mut row: Row, secret: &str) -> Row {
        match self.place {
            Place::Header(name, before) => {
                row.header(HeaderName::from_static(name), &format!("{before}{secret}"))
            }
            Place::Query(key) => {
                row.request.path = format!("{}?{key}={secret}", row.request.path);
                row
            }
        }
    }
}

const SESSIONS: [Session; 3] = [
    Session { name: "cookie", place: Place::Header("cookie", "sid=") },
    Session { name: "api_key", place: Place::Header("x-api-key", "") },
    Session { name: "query", place: Place::Query("access_token") },
];

/// It stands for the holder.
const SESSION: &str = "c2Vzc2lvbg";

fn refused(row: Row, who: &Who) -> Row {
    row.who(who.clone()).status(&[401]).says("flotilla-refused-by", "registry")
}

fn manifest(row: Row, repository: &str) -> Row {
    row.accept(OCI_MANIFEST).get(format!("{repository}/manifests/v1"))
}

fn blob(repository: &str, blob: &Blob) -> String {
    format!("{repository}/blobs/{}", blob.digest())
}

fn basic((name, password): (&str, &str)) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

const RULE: &str = "docs/design.md §7";
const TARGET: &str = "priv/app";
const FORGED: &str = "mine/app";
const HOLDER: (&str, &str) = ("robot$holder", "secret");
const GONE: (&str, &str) = ("robot$gone", "secret too");
const ATTACKER: (&str, &str) = ("robot$attacker", "own secret");
const USER: (&str, &str) = ("bob", "password");
