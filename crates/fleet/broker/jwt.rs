//! Accounts and users of NATS as JSON Web Tokens, version 2 (the Go package `nats-io/jwt`), made without the tools
//! of NATS.
//!
//! A chain of signatures: the operator's key signs the account of the fleet; the account names one signing key for
//! each [`Role`], with the permissions that its users have; that key signs users. So a user's token holds a name and
//! a public key, but no permissions; the broker's configuration does not grow with the fleet; and whoever enrols
//! agents can make neither investigators nor administrators.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

use crate::agent_key::AgentPublicKey;
use crate::subjects::{ACTIONS, ALERTS, KV_AGENTS, KV_ENROL, KV_POLICY, KV_PRESENCE, RESULTS};
use vigie_protocol::names::AgentId;

/// Largest message that a user may publish, in bytes: NATS' default for the server.
const MAX_PAYLOAD_BYTES: i64 = 1024 * 1024;

/// Most subscriptions of an agent. It needs one for each of its groups and a few more.
const MAX_AGENT_SUBSCRIPTIONS: i64 = 128;

/// No limit, in the tokens of NATS.
const UNLIMITED: i64 = -1;

/// What a user of the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes actions, sends answers and alerts, under its own name only.
    Agent,
    /// Sends actions; reads answers, alerts, facts, the policy and enrolments.
    Investigator,
    /// Makes streams, publishes the policy and enrolments, reads the audit: everything in the account.
    Administrator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Investigator, Self::Administrator];

    /// The role's name in tokens and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Investigator => "investigator",
            Self::Administrator => "administrator",
        }
    }

    /// The prefix of the inboxes that a user of this role may subscribe to. Agents and people have different ones,
    /// so that nobody gets at an agent's by bearing its name.
    #[must_use]
    pub fn inbox_prefix(self, user: &AgentId) -> String {
        match self {
            Self::Agent => crate::subjects::inbox_prefix(user),
            Self::Investigator | Self::Administrator => format!("_INBOX.{}.{user}", self.name()),
        }
    }

    /// The permissions of all users of this role; `{{name()}}` stands for the user's name, and
    /// must be a whole token for nats-server 2.9.10.
    fn template(self) -> Value {
        let (publish, subscribe, subscriptions) = match self {
            Self::Agent => (
                [
                    "vigie.res.*.{{name()}}",
                    "vigie.alert.{{name()}}.*",
                    "vigie.audit.{{name()}}",
                    "$KV.agents.{{name()}}",
                    "$KV.presence.{{name()}}",
                ]
                .map(str::to_owned)
                .into_iter()
                // The first takes what is wanted from the body, so it shows stored actions for other agents too.
                .chain([format!("$JS.API.DIRECT.GET.{ACTIONS}"), format!("$JS.API.DIRECT.GET.{KV_POLICY}.>")])
                .collect(),
                [
                    "vigie.act.all",
                    "vigie.act.g.*",
                    "vigie.act.a.{{name()}}",
                    "$KV.policy.current",
                    "_INBOX.agent.{{name()}}.>",
                ]
                .map(str::to_owned)
                .to_vec(),
                MAX_AGENT_SUBSCRIPTIONS,
            ),
            Self::Investigator => (
                ["vigie.act.>", "$JS.API.INFO", "$JS.API.STREAM.NAMES"]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(
                        [ACTIONS, RESULTS, ALERTS, KV_AGENTS, KV_PRESENCE, KV_POLICY, KV_ENROL]
                            .iter()
                            .flat_map(|stream| reading(stream)),
                    )
                    .collect::<Vec<_>>(),
                [
                    "vigie.act.>",
                    "vigie.res.>",
                    "vigie.alert.>",
                    "$KV.agents.*",
                    "$KV.presence.*",
                    "$KV.policy.*",
                    "$KV.enrol.*",
                    "_INBOX.investigator.{{name()}}.>",
                ]
                .map(str::to_owned)
                .to_vec(),
                UNLIMITED,
            ),
            Self::Administrator => (vec![">".to_owned()], vec![">".to_owned()], UNLIMITED),
        };
        json!({
            "pub": {"allow": publish},
            "sub": {"allow": subscribe},
            "subs": subscriptions,
            "data": UNLIMITED,
            "payload": MAX_PAYLOAD_BYTES,
        })
    }
}

/// What one publishes to read a stream: by direct get, and through consumers that are pulled or pushed to an inbox.
fn reading(stream: &str) -> Vec<String> {
    vec![
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.STREAM.MSG.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.*"),
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
        format!("$JS.ACK.{stream}.>"),
        format!("$JS.FC.{stream}.>"),
    ]
}

/// A text that is no key of the kind that was asked for. The text may be secret, so it is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a NATS key of the kind {kind}: expected {expected}")]
pub struct BadAuthorityKey {
    kind: &'static str,
    expected: &'static str,
}

fn key_of(kind: KeyPairType, seed: &str) -> Result<KeyPair, BadAuthorityKey> {
    let bad = match kind {
        KeyPairType::Operator => BadAuthorityKey { kind: "operator", expected: "a seed that begins with SO" },
        _ => BadAuthorityKey { kind: "account", expected: "a seed that begins with SA" },
    };
    KeyPair::from_seed(seed).ok().filter(|key| key.key_pair_type() == kind).ok_or(bad)
}

fn seed_of(key: &KeyPair) -> String {
    key.seed().expect("this pair was made from a seed")
}

/// All keys that stand above the users of a fleet's broker. Needed whole only to set the broker up and to change
/// permissions; who adds users needs a [`RoleSigner`].
#[derive(Clone)]
pub struct Authority {
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    roles: [KeyPair; 3],
}

/// The seeds of an [`Authority`], for its files. Every one is secret.
#[derive(Clone)]
pub struct AuthoritySeeds {
    /// The operator's, `SO…`: signs accounts.
    pub operator: String,
    /// The system account's, `SA…`.
    pub system: String,
    /// The fleet's account's, `SA…`.
    pub account: String,
    /// Those of the roles in the order of [`Role::ALL`], `SA…`: they sign users.
    pub roles: [String; 3],
}

/// What a nats-server must know about a fleet; none of it is secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerTokens {
    /// Token of the operator.
    pub operator: String,
    /// Public key of the system account.
    pub system_account: String,
    /// Token of the system account.
    pub system_token: String,
    /// Public key of the fleet's account.
    pub account: String,
    /// Token of the fleet's account, with the roles' signing keys and permissions.
    pub account_token: String,
}

impl Authority {
    /// New keys from the system's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
            roles: [KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_account()],
        }
    }

    /// The keys of seeds.
    ///
    /// # Errors
    ///
    /// When a seed is not of its kind.
    pub fn from_seeds(seeds: &AuthoritySeeds) -> Result<Self, BadAuthorityKey> {
        let [agent, investigator, administrator] = &seeds.roles;
        let account = |seed: &str| key_of(KeyPairType::Account, seed);
        Ok(Self {
            operator: key_of(KeyPairType::Operator, &seeds.operator)?,
            system: account(&seeds.system)?,
            account: account(&seeds.account)?,
            roles: [account(agent)?, account(investigator)?, account(administrator)?],
        })
    }

    /// The seeds of the keys.
    #[must_use]
    pub fn seeds(&self) -> AuthoritySeeds {
        AuthoritySeeds {
            operator: seed_of(&self.operator),
            system: seed_of(&self.system),
            account: seed_of(&self.account),
            roles: self.roles.each_ref().map(seed_of),
        }
    }

    /// The tokens for the broker's configuration. `name` is the fleet's, `issued` in seconds since 1970 (UTC). Users
    /// whose key is in `revoked` are shut out with all tokens that were issued up to the time beside it.
    #[must_use]
    pub fn tokens(&self, name: &str, issued: i64, revoked: &[(AgentPublicKey, i64)]) -> BrokerTokens {
        let system_account = self.system.public_key();
        let account = self.account.public_key();
        let operator = json!({"type": "operator", "version": 2, "system_account": system_account});
        // No streams in the system account.
        let system = account_claims(json!([]), json!({}));
        let signing_keys: Vec<Value> = Role::ALL
            .iter()
            .zip(&self.roles)
            .map(|(role, key)| {
                json!({
                    "kind": "user_scope",
                    "key": key.public_key(),
                    "role": role.name(),
                    "template": role.template(),
                })
            })
            .collect();
        let jetstream = json!({"mem_storage": UNLIMITED, "disk_storage": UNLIMITED, "streams": UNLIMITED, "consumer": UNLIMITED});
        let mut fleet = account_claims(Value::Array(signing_keys), jetstream);
        if !revoked.is_empty() {
            fleet["revocations"] =
                revoked.iter().map(|(key, until)| (key.text(), Value::from(*until))).collect();
        }
        BrokerTokens {
            operator: token(&self.operator, name, &self.operator.public_key(), issued, None, operator),
            system_token: token(&self.operator, "SYS", &system_account, issued, None, system),
            account_token: token(&self.operator, name, &account, issued, None, fleet),
            system_account,
            account,
        }
    }

    /// The key that makes users of a role.
    #[must_use]
    pub fn signer(&self, role: Role) -> RoleSigner {
        let [agent, investigator, administrator] = &self.roles;
        let key = match role {
            Role::Agent => agent,
            Role::Investigator => investigator,
            Role::Administrator => administrator,
        };
        RoleSigner { role, account: self.account.public_key(), key: key.clone() }
    }
}

/// The claims of an account; `jetstream` adds to the limits that every account has.
fn account_claims(signing_keys: Value, jetstream: Value) -> Value {
    let mut limits = json!({
        "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED,
        "imports": UNLIMITED, "exports": UNLIMITED, "wildcards": true,
        "conn": UNLIMITED, "leaf": UNLIMITED,
    });
    if let (Value::Object(limits), Value::Object(jetstream)) = (&mut limits, jetstream) {
        limits.extend(jetstream);
    }
    json!({
        "type": "account",
        "version": 2,
        "limits": limits,
        "signing_keys": signing_keys,
        // Users that the account's own key signs may do nothing: only roles give rights.
        "default_permissions": {"pub": {"deny": [">"]}, "sub": {"deny": [">"]}},
    })
}

/// Makes users of one role.
#[derive(Clone)]
pub struct RoleSigner {
    role: Role,
    account: String,
    key: KeyPair,
}

impl RoleSigner {
    /// The signer of a role with its seed (`SA…`), for the account with this public key (`A…`).
    ///
    /// # Errors
    ///
    /// When one of them is not of its kind.
    pub fn from_seed(role: Role, account: &str, seed: &str) -> Result<Self, BadAuthorityKey> {
        let key = key_of(KeyPairType::Account, seed)?;
        let public = KeyPair::from_public_key(account).ok();
        if public.is_none_or(|public| public.key_pair_type() != KeyPairType::Account) {
            return Err(BadAuthorityKey { kind: "account", expected: "a public key that begins with A" });
        }
        Ok(Self { role, account: account.to_owned(), key })
    }

    /// The role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Public key of the fleet's account.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The signer's seed. Secret.
    #[must_use]
    pub fn seed(&self) -> String {
        seed_of(&self.key)
    }

    /// The token of a user with this name and key. Times are in seconds since 1970 (UTC); without `expires` it
    /// holds until the role's signing key is taken out of the account.
    #[must_use]
    pub fn user(&self, name: &AgentId, key: &AgentPublicKey, issued: i64, expires: Option<i64>) -> String {
        let claims = json!({"type": "user", "version": 2, "issuer_account": self.account});
        token(&self.key, name.as_str(), &key.text(), issued, expires, claims)
    }
}

/// A signed token (`nats-io/jwt`, version 2): header, claims and signature in base64url, with dots between.
fn token(
    signer: &KeyPair,
    name: &str,
    subject: &str,
    issued: i64,
    expires: Option<i64>,
    nats: Value,
) -> String {
    let mut claims = json!({
        "iat": issued,
        "iss": signer.public_key(),
        "jti": "",
        "name": name,
        "sub": subject,
        "nats": nats,
    });
    if let Some(expires) = expires {
        claims["exp"] = json!(expires);
    }
    // The id is a digest of the claims without it, as the tools of NATS make it.
    claims["jti"] = json!(BASE32_NOPAD.encode(&Sha512_256::digest(claims.to_string())));
    let header = BASE64URL_NOPAD.encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
    let signed = format!("{header}.{body}");
    let signature = signer.sign(signed.as_bytes()).expect("signers have their secret");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

/// The text of a `.creds` file: a user's token and seed. Secret.
#[must_use]
pub fn credentials_text(user_token: &str, user_seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent_key::AgentKey;

    const ISSUED: i64 = 1_800_000_000;

    /// The claims of a token whose signature was checked with its own issuer.
    fn claims(token: &str) -> Value {
        let parts: Vec<&str> = token.split('.').collect();
        let [header, body, signature] = parts[..] else { panic!("three parts: {token}") };
        let claims: Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap();
        let issuer = KeyPair::from_public_key(claims["iss"].as_str().unwrap()).unwrap();
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap();
        issuer.verify(format!("{header}.{body}").as_bytes(), &signature).unwrap();
        claims
    }

    #[test]
    fn every_token_is_signed_by_the_one_above_it() {
        let authority = Authority::generate();
        let tokens = authority.tokens("fleet", ISSUED, &[]);

        let operator = claims(&tokens.operator);
        assert_eq!(operator["iss"], operator["sub"]);
        let account = claims(&tokens.account_token);
        assert_eq!(account["iss"], operator["sub"]);
        assert_eq!(account["sub"], tokens.account.as_str());
        assert_eq!(claims(&tokens.system_token)["iss"], operator["sub"]);
        for (number, role) in Role::ALL.into_iter().enumerate() {
            let key = AgentKey::generate();
            let user = authority.signer(role).user(&"web-1".parse().unwrap(), key.public_key(), ISSUED, None);
            let user = claims(&user);
            assert_eq!(user["iss"], account["nats"]["signing_keys"][number]["key"]);
            assert_eq!(user["sub"], key.public_key().text());
            assert_eq!(user["nats"]["issuer_account"], tokens.account.as_str());
        }
    }

    #[test]
    fn a_user_holds_no_permissions_and_may_expire() {
        let signer = Authority::generate().signer(Role::Agent);
        let key = AgentKey::generate();
        let user =
            claims(&signer.user(&"web-1".parse().unwrap(), key.public_key(), ISSUED, Some(ISSUED + 60)));
        assert_eq!(user["exp"], ISSUED + 60);
        let names: Vec<&String> = user["nats"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["issuer_account", "type", "version"]);
    }

    #[test]
    fn the_authority_comes_back_from_its_seeds() {
        let authority = Authority::generate();
        let again = Authority::from_seeds(&authority.seeds()).unwrap();
        assert_eq!(again.tokens("fleet", ISSUED, &[]), authority.tokens("fleet", ISSUED, &[]));
        let signer = authority.signer(Role::Agent);
        assert!(RoleSigner::from_seed(Role::Agent, signer.account(), &signer.seed()).is_ok());
        assert!(RoleSigner::from_seed(Role::Agent, &signer.seed(), &signer.seed()).is_err());
        let swapped = AuthoritySeeds { operator: authority.seeds().account, ..authority.seeds() };
        assert!(Authority::from_seeds(&swapped).is_err());
    }

    #[test]
    fn an_agent_writes_under_its_own_name_only() {
        let template = Role::Agent.template();
        for subject in template["pub"]["allow"].as_array().unwrap() {
            let subject = subject.as_str().unwrap();
            assert!(
                subject.contains("{{name()}}") || subject.starts_with("$JS.API.DIRECT.GET."),
                "{subject} is everybody's"
            );
        }
    }

    /// nats-server 2.9.10 leaves others as they are, and they then fit nobody.
    #[test]
    fn a_name_in_a_template_is_a_whole_token() {
        for role in Role::ALL {
            let text = role.template().to_string();
            for subject in text.split('"').filter(|part| part.contains("{{")) {
                assert!(
                    subject.split('.').all(|token| !token.contains("{{") || token == "{{name()}}"),
                    "{subject}"
                );
            }
        }
    }

    #[test]
    fn people_and_agents_of_one_name_have_different_inboxes() {
        let name: AgentId = "web-1".parse().unwrap();
        let prefixes = Role::ALL.map(|role| role.inbox_prefix(&name));
        for (number, prefix) in prefixes.iter().enumerate() {
            for other in prefixes.iter().skip(number + 1) {
                assert!(!other.starts_with(&format!("{prefix}.")) && other != prefix);
            }
        }
    }
}
