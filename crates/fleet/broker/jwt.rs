//! Accounts and users of NATS as JSON Web Tokens, version 2 (the Go package `nats-io/jwt`), made without the tools
//! of NATS.
//!
//! A chain of signatures: the operator's key signs the accounts ([`super::permissions`]); each names one signing key
//! for each of its [`Role`]s, with the permissions that its users have; that key signs users. So a user's token holds a
//! name and a public key, but no permissions; the broker's configuration does not grow with the fleet; and whoever
//! enrols agents can make neither investigators nor administrators.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

use super::leaf::Site;
pub use super::permissions::Role;
use super::permissions::{Account, Shared, UNLIMITED};
use crate::agent_key::AgentPublicKey;
use vigie_protocol::names::AgentId;

/// A text that is no key of the kind that was asked for. The text may be secret, so it is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a NATS key of the kind {kind}: expected {expected}")]
pub struct BadAuthorityKey {
    kind: &'static str,
    expected: &'static str,
}

pub(super) fn key_of(kind: KeyPairType, seed: &str) -> Result<KeyPair, BadAuthorityKey> {
    let bad = match kind {
        KeyPairType::Operator => BadAuthorityKey { kind: "operator", expected: "a seed that begins with SO" },
        _ => BadAuthorityKey { kind: "account", expected: "a seed that begins with SA" },
    };
    KeyPair::from_seed(seed).ok().filter(|key| key.key_pair_type() == kind).ok_or(bad)
}

pub(super) fn seed_of(key: &KeyPair) -> String {
    key.seed().expect("this pair was made from a seed")
}

/// Prefix of the inboxes of whoever watches the servers.
pub const SYSTEM_INBOX: &str = "_INBOX.watcher";

/// All keys that stand above the users of a fleet's broker. Needed whole only to set the broker up and to change
/// permissions; who adds users needs a [`RoleSigner`].
#[derive(Clone)]
pub struct Authority {
    operator: KeyPair,
    system: KeyPair,
    accounts: [KeyPair; Account::ALL.len()],
    roles: [KeyPair; Role::ALL.len()],
}

/// The seeds of an [`Authority`], for its files. Every one is secret.
#[derive(Clone)]
pub(crate) struct AuthoritySeeds {
    /// The operator's, `SO…`: signs accounts.
    pub(crate) operator: String,
    /// The system account's, `SA…`.
    pub(crate) system: String,
    /// Those of the accounts in the order of [`Account::ALL`], `SA…`.
    pub(crate) accounts: [String; Account::ALL.len()],
    /// Those of the roles in the order of [`Role::ALL`], `SA…`: they sign users.
    pub(crate) roles: [String; Role::ALL.len()],
}

/// An account as a nats-server must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountToken {
    /// Which.
    pub account: Account,
    /// Its public key.
    pub key: String,
    /// Its token, with the roles' signing keys and permissions.
    pub token: String,
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
    /// The accounts, in the order of [`Account::ALL`].
    pub accounts: Vec<AccountToken>,
    /// Public keys and tokens of the sites' accounts.
    pub sites: Vec<(String, String)>,
}

impl Authority {
    /// New keys from the system's random numbers.
    #[must_use]
    pub fn generate() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            accounts: std::array::from_fn(|_| KeyPair::new_account()),
            roles: std::array::from_fn(|_| KeyPair::new_account()),
        }
    }

    /// The keys of seeds.
    ///
    /// # Errors
    ///
    /// When a seed is not of its kind.
    pub(crate) fn from_seeds(seeds: &AuthoritySeeds) -> Result<Self, BadAuthorityKey> {
        let account = |seed: &String| key_of(KeyPairType::Account, seed);
        let all =
            |[one, two, three, four, five, six]: &[String; 6]| -> Result<[KeyPair; 6], BadAuthorityKey> {
                Ok([
                    account(one)?,
                    account(two)?,
                    account(three)?,
                    account(four)?,
                    account(five)?,
                    account(six)?,
                ])
            };
        Ok(Self {
            operator: key_of(KeyPairType::Operator, &seeds.operator)?,
            system: account(&seeds.system)?,
            accounts: all(&seeds.accounts)?,
            roles: all(&seeds.roles)?,
        })
    }

    /// The seeds of the keys.
    #[must_use]
    pub(crate) fn seeds(&self) -> AuthoritySeeds {
        AuthoritySeeds {
            operator: seed_of(&self.operator),
            system: seed_of(&self.system),
            accounts: self.accounts.each_ref().map(seed_of),
            roles: self.roles.each_ref().map(seed_of),
        }
    }

    /// The public key of an account.
    #[must_use]
    pub fn account(&self, account: Account) -> String {
        let at = Account::ALL.iter().position(|known| *known == account).unwrap_or(0);
        self.accounts[at].public_key()
    }

    /// The tokens for the broker's configuration. `name` is the fleet's, `issued` in seconds since 1970 (UTC). Users
    /// whose key is in `revoked` are shut out with all tokens that were issued up to the time beside it. Each of
    /// `sites` has an account of its own.
    #[must_use]
    pub fn tokens(
        &self,
        name: &str,
        issued: i64,
        revoked: &[(AgentPublicKey, i64)],
        sites: &[Site],
    ) -> BrokerTokens {
        let system_account = self.system.public_key();
        let operator = json!({"type": "operator", "version": 2, "system_account": system_account});
        // No streams in the system account.
        let system = claims_of(json!([]), UNLIMITED);
        let accounts = Account::ALL
            .into_iter()
            .map(|account| {
                let key = self.account(account);
                let claims = self.account_claims(account, revoked, sites);
                let title = format!("{name} {}", account.name());
                AccountToken {
                    account,
                    token: token(&self.operator, &title, &key, issued, None, claims),
                    key,
                }
            })
            .collect();
        BrokerTokens {
            operator: token(&self.operator, name, &self.operator.public_key(), issued, None, operator),
            system_token: token(&self.operator, "SYS", &system_account, issued, None, system),
            accounts,
            sites: sites
                .iter()
                .map(|site| {
                    let (key, title) = (site.account(), format!("{name} site {}", site.name()));
                    let mut claims = site.claims();
                    give(
                        &mut claims,
                        &Account::Agents.exports(),
                        site.imports().iter().map(|(from, one)| (self.account(*from), one.clone())),
                    );
                    revoke(&mut claims, revoked);
                    let token = token(&self.operator, &title, &key, issued, None, claims);
                    (key, token)
                })
                .collect(),
            system_account,
        }
    }

    /// The login of somebody who may ask the servers who is connected, and nothing else. `issued` is in seconds since
    /// 1970 (UTC).
    #[must_use]
    pub fn watcher(&self, key: &AgentPublicKey, issued: i64) -> String {
        let claims = json!({
            "type": "user",
            "version": 2,
            "pub": {"allow": [super::watch::CONNECTIONS, super::watch::SERVERS]},
            "sub": {"allow": [format!("{SYSTEM_INBOX}.>")]},
            "subs": UNLIMITED,
            "data": UNLIMITED,
            "payload": UNLIMITED,
        });
        token(&self.system, "watcher", &key.text(), issued, None, claims)
    }

    /// What the server of a site must know: the agents' account, which gets nothing from others there and gives
    /// nothing. What agents say goes on to the brokers.
    #[must_use]
    pub fn leaf_tokens(&self, name: &str, issued: i64, revoked: &[(AgentPublicKey, i64)]) -> BrokerTokens {
        let mut tokens = self.tokens(name, issued, revoked, &[]);
        tokens.accounts.retain(|token| token.account == Account::Agents);
        for agents in &mut tokens.accounts {
            let mut claims = self.own_claims(Account::Agents);
            // Its own connections to the brokers.
            claims["limits"]["leaf"] = json!(UNLIMITED);
            revoke(&mut claims, revoked);
            let title = format!("{name} {}", Account::Agents.name());
            agents.token = token(&self.operator, &title, &agents.key, issued, None, claims);
        }
        tokens
    }

    fn account_claims(&self, account: Account, revoked: &[(AgentPublicKey, i64)], sites: &[Site]) -> Value {
        let mut claims = self.own_claims(account);
        self.share(&mut claims, account, sites);
        revoke(&mut claims, revoked);
        claims
    }

    /// Limits and roles of an account.
    fn own_claims(&self, account: Account) -> Value {
        let signing_keys: Vec<Value> = account
            .roles()
            .map(|role| {
                json!({
                    "kind": "user_scope",
                    "key": self.signer(role).key.public_key(),
                    "role": role.name(),
                    "template": role.template(),
                })
            })
            .collect();
        let mut claims = claims_of(Value::Array(signing_keys), account.connections());
        if account == Account::Fleet {
            for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
                claims["limits"][limit] = json!(UNLIMITED);
            }
        }
        claims
    }

    /// What an account gives to others and takes from them.
    fn share(&self, claims: &mut Value, account: Account, sites: &[Site]) {
        let own = account.imports();
        let own = own.iter().map(|(from, one)| (self.account(*from), one.clone()));
        // What agents give to investigators, the agents of sites give.
        let sites = sites.iter().filter(|_| account == Account::Investigators);
        let of_sites = sites.flat_map(|site| site.answers().map(|one| (site.account(), one)));
        give(claims, &account.exports(), own.chain(of_sites));
    }

    /// The key that makes users of a role.
    #[must_use]
    pub fn signer(&self, role: Role) -> RoleSigner {
        let at = Role::ALL.iter().position(|known| *known == role).unwrap_or(0);
        RoleSigner { role, account: self.account(role.account()), key: self.roles[at].clone() }
    }
}

fn give(claims: &mut Value, exports: &[Shared], imports: impl Iterator<Item = (String, Shared)>) {
    let shared =
        |Shared { subject, kind }: &Shared| json!({"name": subject, "subject": subject, "type": kind});
    let exports: Vec<Value> = exports.iter().map(shared).collect();
    let imports: Vec<Value> = imports
        .map(|(from, one)| {
            let mut import = shared(&one);
            import["account"] = from.into();
            import["local_subject"] = one.subject.into();
            import
        })
        .collect();
    if !exports.is_empty() {
        claims["exports"] = exports.into();
    }
    if !imports.is_empty() {
        claims["imports"] = imports.into();
    }
}

fn revoke(claims: &mut Value, revoked: &[(AgentPublicKey, i64)]) {
    if !revoked.is_empty() {
        claims["revocations"] =
            revoked.iter().map(|(key, until)| (key.text(), Value::from(*until))).collect();
    }
}

/// The claims of an account without streams. Nobody connects to it as a leaf node: it would be told of every
/// subscription in the account.
pub(super) fn claims_of(signing_keys: Value, connections: i64) -> Value {
    json!({
        "type": "account",
        "version": 2,
        "limits": {
            "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED,
            "imports": UNLIMITED, "exports": UNLIMITED, "wildcards": true,
            "conn": connections, "leaf": 0,
        },
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

/// Whose login a token is; nothing of it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: AgentId,
    /// Its key.
    pub key: AgentPublicKey,
    /// When it was issued, in seconds since 1970 (UTC).
    pub issued: i64,
    /// When it ends; never when absent.
    pub expires: Option<i64>,
}

/// Reads a user's token without checking who signed it: the broker does that.
#[must_use]
pub fn user_of(token: &str) -> Option<User> {
    let body = token.trim().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).ok()?).ok()?;
    Some(User {
        name: claims["name"].as_str()?.parse().ok()?,
        key: claims["sub"].as_str()?.parse().ok()?,
        issued: claims["iat"].as_i64()?,
        expires: claims["exp"].as_i64(),
    })
}

/// A signed token (`nats-io/jwt`, version 2): header, claims and signature in base64url, with dots between.
pub(super) fn token(
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
        let tokens = authority.tokens("fleet", ISSUED, &[], &[]);

        let operator = claims(&tokens.operator);
        assert_eq!(operator["iss"], operator["sub"]);
        assert_eq!(claims(&tokens.system_token)["iss"], operator["sub"]);
        for role in Role::ALL {
            let account = tokens.accounts.iter().find(|token| token.account == role.account()).unwrap();
            let (key_of_account, account) = (&account.key, claims(&account.token));
            assert_eq!(
                (&account["iss"], account["sub"].as_str().unwrap()),
                (&operator["sub"], key_of_account.as_str())
            );
            let streams = account["nats"]["limits"]["disk_storage"].is_number();
            assert_eq!(streams, role == Role::Administrator, "only the fleet's account has streams");
            let key = AgentKey::generate();
            let user = authority.signer(role).user(&"web-1".parse().unwrap(), key.public_key(), ISSUED, None);
            let user = claims(&user);
            assert_eq!(user["iss"], account["nats"]["signing_keys"][0]["key"]);
            assert_eq!(user["sub"], key.public_key().text());
            assert_eq!(user["nats"]["issuer_account"], key_of_account.as_str());
        }
    }

    #[test]
    fn a_user_holds_no_permissions_and_may_expire() {
        let signer = Authority::generate().signer(Role::Agent);
        let key = AgentKey::generate();
        let user =
            claims(&signer.user(&"web-1".parse().unwrap(), key.public_key(), ISSUED, Some(ISSUED + 60)));
        assert_eq!(user["exp"], ISSUED + 60);
        let token = signer.user(&"web-1".parse().unwrap(), key.public_key(), ISSUED, None);
        let read = user_of(&token).unwrap();
        assert_eq!((read.name.as_str(), &read.key, read.expires), ("web-1", key.public_key(), None));
        assert_eq!((user_of("a.b.c"), user_of("")), (None, None));
        let names: Vec<&String> = user["nats"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["issuer_account", "type", "version"]);
    }

    #[test]
    fn the_authority_comes_back_from_its_seeds() {
        let authority = Authority::generate();
        let again = Authority::from_seeds(&authority.seeds()).unwrap();
        assert_eq!(again.tokens("fleet", ISSUED, &[], &[]), authority.tokens("fleet", ISSUED, &[], &[]));
        let signer = authority.signer(Role::Agent);
        assert!(RoleSigner::from_seed(Role::Agent, signer.account(), &signer.seed()).is_ok());
        assert!(RoleSigner::from_seed(Role::Agent, &signer.seed(), &signer.seed()).is_err());
        let swapped = AuthoritySeeds { operator: authority.seeds().system, ..authority.seeds() };
        assert!(Authority::from_seeds(&swapped).is_err());
    }
}
