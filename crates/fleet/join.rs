//! How a host joins a fleet by a token, and how an agent gets a new login or certificate. Pure.
//!
//! | text | signed by | says |
//! |---|---|---|
//! | [`Grant`] | an enrolment key of the policy | what a token allows: until when, for how many hosts, with which tags |
//! | [`JoinToken`] | holds a grant | and what a host needs to use it: the fleet's root keys, the brokers, a login, the secret key that the grant names |
//! | [`Request`] | the token's key and the host's own | this host, with this key, wants to be called so |
//! | [`Answer`] | an enrolment key of the policy | its enrolment, login and certificate, or why not |
//!
//! The broker is not trusted: it cannot make a request, so it lets nobody in; it cannot make an answer, so it cannot
//! give a host another name, fleet or policy. A request that comes again, from whomever, is about the same key and
//! name, and leads to the same record. How many hosts a token let in is counted in the signed enrolments, which name
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agent_key::{self, AgentKey, AgentKeyError, AgentPublicKey};
use crate::answer::{Purpose, Sealed};
use crate::broker::jwt;
use crate::enrolment::{self, Enrolment, SignedEnrolment};
use crate::facts;
use crate::policy::{Policy, Roots};
use crate::predicate::glob_matches;
use crate::signature;
use vigie_protocol::names::{AgentId, GroupName};

/// Version of all texts of this file.
pub const VERSION: u8 = 1;

/// Namespace of the signatures of grants.
pub const GRANT_NAMESPACE: &str = "vigie-token@v1";

/// Namespace of the signatures of answers.
pub const ANSWER_NAMESPACE: &str = "vigie-join@v1";

/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;

/// Longest request as it is stored, in bytes.
pub const MAX_REQUEST_BYTES: usize = 6 * 1024;

/// Longest answer as it is stored, in bytes.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// Most hosts that one token lets in.
pub const MAX_USES: u32 = 100_000;

/// Longest public key of TLS, in base64.
const MAX_TLS_KEY_BYTES: usize = 1024;

/// What a token begins with, so that people and scanners for secrets know it.
const PREFIX: &str = "vigie-join-";

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet.
    pub org: String,
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The token's key; who holds the token has its secret half.
    pub key: AgentPublicKey,
    /// Number of hosts that may use it.
    pub uses: u32,
    /// Until when, in seconds since 1970 (UTC).
    pub not_after: i64,
    /// Hosts are let in without a person that looks at each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// What names hosts may have, with `*` for any text; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// Tags that hosts get.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Groups that hosts are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupName>,
}

/// A text and an SSH signature of an enrolment key over its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The exact text that was signed.
    pub text: String,
    /// Armoured SSH signature (OpenSSH's PROTOCOL.sshsig).
    pub sig: String,
}

/// What a host needs to join. Secret: whoever has it can join as far as the grant goes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// What it allows.
    pub grant: Signed,
    /// Secret half of the grant's key, `SU…`.
    pub seed: String,
    /// Login for the broker, made for the grant's key; it ends with the grant.
    pub login: String,
    /// Addresses of the brokers.
    pub urls: Vec<String>,
    /// Who signs the policy: the host trusts them from now on, and the broker never.
    pub roots: Roots,
    /// The policy was at this version when the token was made; an older one is refused.
    pub policy_version: u64,
    /// Certificates, for brokers with TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TokenTls>,
}

/// What a token needs for brokers with TLS; in PEM.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenTls {
    /// Who signed the broker's certificate.
    pub ca: String,
    /// A certificate that opens the door until the grant ends, and its key.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Shows nothing secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("grant", &self.grant.text).finish_non_exhaustive()
    }
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is no token, or was cut.
    #[error("not a join token: copy the whole line that `vigie fleet token new` prints")]
    Form,
    /// Its parts do not fit together.
    #[error("the token is damaged: {0}; create a new one with `vigie fleet token new`")]
    Damaged(String),
    /// Its key cannot be used.
    #[error("the token's key cannot be used")]
    Key(#[from] AgentKeyError),
    /// It holds no longer.
    #[error("the token expired at {0} (seconds since 1970): create a new one, or correct the clock")]
    Ended(i64),
}

impl JoinToken {
    /// The token as one word.
    #[must_use]
    pub fn to_text(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings and numbers always become JSON");
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&json))
    }

    /// Reads a token.
    ///
    /// # Errors
    ///
    /// When it is none, or its parts do not fit together.
    pub fn parse(text: &str) -> Result<(Self, Grant), TokenError> {
        let body = text.trim().strip_prefix(PREFIX).filter(|body| body.len() <= MAX_TOKEN_BYTES);
        let json =
            body.and_then(|body| BASE64URL_NOPAD.decode(body.as_bytes()).ok()).ok_or(TokenError::Form)?;
        let damaged = |error: &dyn fmt::Display| TokenError::Damaged(error.to_string());
        let token: Self = serde_json::from_slice(&json).map_err(|_| TokenError::Form)?;
        let grant: Grant = serde_json::from_str(&token.grant.text).map_err(|error| damaged(&error))?;
        grant.check().map_err(|error| damaged(&error))?;
        token.roots.check().map_err(|error| damaged(&error))?;
        if token.key()?.public_key() != &grant.key {
            return Err(TokenError::Damaged("its key is not the grant's".to_owned()));
        }
        Ok((token, grant))
    }

    /// The token's key.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn key(&self) -> Result<AgentKey, AgentKeyError> {
        AgentKey::from_seed(&self.seed)
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet.
    pub org: String,
    /// Id of the token; absent when an agent wants something renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The host's own key.
    pub key: AgentPublicKey,
    /// How it wants to be called.
    pub agent: AgentId,
    /// Its host name, for the person who decides.
    pub hostname: String,
    /// Digest of the machine's id.
    pub machine: String,
    /// Public key for a certificate (SubjectPublicKeyInfo, RFC 5280) in base64, when it wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<String>,
    /// When it was made, in milliseconds since 1970 by the host's clock: tells two requests of a host apart.
    pub made: i64,
}

/// A request as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedRequest {
    /// Sealed by the host's own key.
    pub request: Sealed,
    /// The token's seal of the same text; absent when something is to be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_token: Option<String>,
    /// What the token allows; with `by_token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<Signed>,
}

/// A request that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What is asked for.
    pub request: Request,
    /// What the token allows.
    pub grant: Grant,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet.
    pub org: String,
    /// Whose request it answers.
    pub key: AgentPublicKey,
    /// By which token; absent when something was renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the request was made that it answers, as that says.
    pub made: i64,
    /// When, in seconds since 1970 (UTC). Of two answers the later one holds.
    pub issued: i64,
    /// What.
    pub outcome: Outcome,
}

/// Whether a host is let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It is enrolled.
    Approved(Box<Approved>),
    /// It is not.
    Denied {
        /// Why.
        reason: String,
        /// A person decided it: it holds until a person decides otherwise. Otherwise it is about one request.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_person: bool,
    },
}

/// What a host gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// Its enrolment as it lies in the broker.
    pub enrolment: SignedEnrolment,
    /// Its login for the broker.
    pub login: String,
    /// Its certificate in PEM, when it asked for one and there is a CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// Says that a token holds no longer, although its time is not up. Signed like an [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenEnd {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet.
    pub org: String,
    /// Id of the token.
    pub ended_token: String,
    /// When, in seconds since 1970 (UTC).
    pub issued: i64,
}

/// Why a request or an answer does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinProblem {
    /// It is too large or of another form.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// It is of a version that is not known here.
    #[error("it has version {0}, but this program knows {VERSION}: use a newer program")]
    Version(u8),
    /// It is for another fleet.
    #[error("it is for the fleet {0:?}")]
    OtherFleet(String),
    /// A value is not of its form.
    #[error("its {0} has the wrong format")]
    BadValue(&'static str),
    /// No enrolment key of the policy signed it.
    #[error("no enrolment key of the policy signed it: {0}")]
    Unsigned(String),
    /// A seal does not hold.
    #[error("the seal of {0} is invalid: it was altered or forged")]
    Seal(&'static str),
    /// It is about another token, key or name.
    #[error("it is about another {0}")]
    Other(&'static str),
}

fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, JoinProblem> {
    serde_json::from_str(text).map_err(|error| JoinProblem::Malformed(error.to_string()))
}

fn check_head(v: u8, org: &str, wanted: &str) -> Result<(), JoinProblem> {
    if v != VERSION {
        return Err(JoinProblem::Version(v));
    }
    if org != wanted {
        return Err(JoinProblem::OtherFleet(org.chars().take(64).collect()));
    }
    Ok(())
}

fn is_digest(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Checks an SSH signature of an enrolment key of the policy.
fn check_signature(signed: &Signed, namespace: &str, policy: &Policy) -> Result<(), JoinProblem> {
    let signer = signature::verify(namespace, signed.text.as_bytes(), &signed.sig)
        .map_err(|error| JoinProblem::Unsigned(error.to_string()))?;
    if policy.is_enrolment_key(&signer.key) {
        Ok(())
    } else {
        Err(JoinProblem::Unsigned(format!("{} is no enrolment key", signer.key.fingerprint())))
    }
}

impl Grant {
    /// Checks the form of what it says.
    fn check(&self) -> Result<(), JoinProblem> {
        if self.v != VERSION {
            return Err(JoinProblem::Version(self.v));
        }
        let is_id = self.id.len() == 32 && self.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let tags = self.tags.len() <= facts::MAX_TAGS
            && self.tags.iter().all(|(name, value)| {
                facts::is_tag_name(name)
                    && value.len() <= facts::MAX_FACT_BYTES
                    && !value.chars().any(char::is_control)
            });
        for (what, good) in [
            ("id", is_id),
            ("number of uses", (1..=MAX_USES).contains(&self.uses)),
            ("tags", tags),
            ("groups", self.groups.len() <= facts::MAX_GROUPS),
            (
                "pattern of names",
                self.names.as_ref().is_none_or(|names| names.len() <= facts::MAX_FACT_BYTES),
            ),
        ] {
            if !good {
                return Err(JoinProblem::BadValue(what));
            }
        }
        Ok(())
    }

    /// Whether a host may have this name.
    #[must_use]
    pub fn allows_name(&self, agent: &AgentId) -> bool {
        self.names.as_ref().is_none_or(|names| glob_matches(names, agent.as_str()))
    }
}

impl Request {
    /// Seals the request with the host's key, and with that of the token.
    ///
    /// # Errors
    ///
    /// When it is too large for a seal.
    pub fn seal(
        &self,
        key: &AgentKey,
        token: Option<(&AgentKey, &Signed)>,
    ) -> Result<SealedRequest, agent_key::SealError> {
        let text = serde_json::to_string(self).expect("strings and numbers always become JSON");
        let by_token = token.map(|(token, _)| token.seal(Purpose::Token, text.clone())).transpose()?;
        Ok(SealedRequest {
            request: key.seal(Purpose::Join, text)?,
            by_token: by_token.map(|sealed| sealed.sig),
            grant: token.map(|(_, grant)| grant.clone()),
        })
    }

    fn check(&self, org: &str) -> Result<(), JoinProblem> {
        check_head(self.v, &self.org, org)?;
        let hostname =
            self.hostname.len() <= facts::MAX_FACT_BYTES && !self.hostname.chars().any(char::is_control);
        for (what, good) in [
            ("host name", hostname),
            ("machine", is_digest(&self.machine)),
            ("public key", self.tls_key.as_ref().is_none_or(|key| key.len() <= MAX_TLS_KEY_BYTES)),
        ] {
            if !good {
                return Err(JoinProblem::BadValue(what));
            }
        }
        Ok(())
    }
}

fn sealed_request(bytes: &[u8], org: &str) -> Result<(SealedRequest, Request), JoinProblem> {
    if bytes.len() > MAX_REQUEST_BYTES {
        return Err(JoinProblem::Malformed(format!("it has {} bytes", bytes.len())));
    }
    let sealed: SealedRequest =
        serde_json::from_slice(bytes).map_err(|error| JoinProblem::Malformed(error.to_string()))?;
    let request: Request = parsed(&sealed.request.text)?;
    request.check(org)?;
    agent_key::open(&sealed.request, Purpose::Join, &request.key)
        .map_err(|_| JoinProblem::Seal("the host's key"))?;
    Ok((sealed, request))
}

/// Reads a request to join that lies where those by the token `id` belong, and sees that the token's key and the host's
/// own sealed it, and that an enrolment key granted the token.
///
/// # Errors
///
/// When it does not count.
pub fn open_request(bytes: &[u8], org: &str, id: &str, policy: &Policy) -> Result<Checked, JoinProblem> {
    let (sealed, request) = sealed_request(bytes, org)?;
    let (Some(signed), Some(by_token)) = (sealed.grant, sealed.by_token) else {
        return Err(JoinProblem::Other("kind: no token is named"));
    };
    let grant: Grant = parsed(&signed.text)?;
    check_head(grant.v, &grant.org, org)?;
    grant.check()?;
    if grant.id != id || request.token.as_deref() != Some(id) {
        return Err(JoinProblem::Other("token"));
    }
    if request.key == grant.key {
        return Err(JoinProblem::BadValue("key"));
    }
    let again = Sealed { text: sealed.request.text, sig: by_token };
    agent_key::open(&again, Purpose::Token, &grant.key).map_err(|_| JoinProblem::Seal("the token"))?;
    check_signature(&signed, GRANT_NAMESPACE, policy)?;
    Ok(Checked { request, grant })
}

/// Reads a request of an agent to renew what it has, and sees that its enrolled key sealed it.
///
/// # Errors
///
/// When it does not count.
pub fn open_renewal(
    bytes: &[u8],
    org: &str,
    agent: &AgentId,
    enrolled: &AgentPublicKey,
) -> Result<Request, JoinProblem> {
    let (_, request) = sealed_request(bytes, org)?;
    if request.token.is_some() {
        return Err(JoinProblem::Other("kind: it names a token"));
    }
    if request.agent != *agent {
        return Err(JoinProblem::Other("agent"));
    }
    if request.key != *enrolled {
        return Err(JoinProblem::Other("key"));
    }
    Ok(request)
}

/// Whether an answer turns away an earlier request of the same host: it may have asked otherwise since.
#[must_use]
pub fn denies_earlier(answer: &Answer, request: &Request) -> bool {
    matches!(answer.outcome, Outcome::Denied { by_person: false, .. }) && answer.made != request.made
}

/// What a host that asked makes of an answer: what it gets, or why it is not let in. `policy` is the newest that the
/// root keys signed.
///
/// # Errors
///
/// When the answer does not count.
pub fn open_answer(
    bytes: &[u8],
    request: &Request,
    policy: &Policy,
    now: i64,
) -> Result<Answer, JoinProblem> {
    if bytes.len() > MAX_ANSWER_BYTES {
        return Err(JoinProblem::Malformed(format!("it has {} bytes", bytes.len())));
    }
    let signed: Signed =
        serde_json::from_slice(bytes).map_err(|error| JoinProblem::Malformed(error.to_string()))?;
    let answer: Answer = parsed(&signed.text)?;
    check_head(answer.v, &answer.org, &request.org)?;
    if answer.key != request.key {
        return Err(JoinProblem::Other("key"));
    }
    if answer.token != request.token {
        return Err(JoinProblem::Other("token"));
    }
    check_signature(&signed, ANSWER_NAMESPACE, policy)?;
    if let Outcome::Approved(approved) = &answer.outcome {
        let record = serde_json::to_vec(&approved.enrolment)
            .map_err(|error| JoinProblem::Malformed(error.to_string()))?;
        let verify = |text: &[u8], sig: &str| {
            let signed = Signed { text: String::from_utf8_lossy(text).into_owned(), sig: sig.to_owned() };
            check_signature(&signed, enrolment::NAMESPACE, policy)
        };
        let enrolment = enrolment::check(&record, &request.org, &request.agent, None, now, verify)
            .map_err(|error| JoinProblem::Malformed(error.to_string()))?
            .enrolment;
        if enrolment.key != request.key || enrolment.revoked {
            return Err(JoinProblem::Other("key"));
        }
        let login = jwt::user_of(&approved.login).ok_or(JoinProblem::BadValue("login"))?;
        if login.key != request.key || login.name != request.agent {
            return Err(JoinProblem::Other("login"));
        }
    }
    Ok(answer)
}

/// Whether somebody ended this token before its time.
#[must_use]
pub fn is_ended(bytes: &[u8], org: &str, id: &str, policy: &Policy) -> bool {
    let ended = || -> Result<bool, JoinProblem> {
        let signed: Signed =
            serde_json::from_slice(bytes).map_err(|error| JoinProblem::Malformed(error.to_string()))?;
        let end: TokenEnd = parsed(&signed.text)?;
        check_head(end.v, &end.org, org)?;
        check_signature(&signed, ANSWER_NAMESPACE, policy)?;
        Ok(end.ended_token == id)
    };
    ended().unwrap_or(false)
}

/// What the fleet has, for the decision about a request: every enrolment that counts, those that shut somebody out too.
#[derive(Debug, Default)]
pub struct Members {
    by_name: BTreeMap<AgentId, Enrolment>,
    /// Every key that ever counted, and whose it is.
    keys: BTreeMap<String, AgentId>,
    /// Which keys each token let in.
    by_token: BTreeMap<String, BTreeSet<String>>,
}

/// What is to be done about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is in already: the answer is given once more.
    Again(Box<Enrolment>),
    /// It may be let in.
    Admit,
    /// A person has to look, and why.
    Ask(&'static str),
    /// It cannot be let in, and why.
    Refuse(String),
}

impl Members {
    /// Takes note of an enrolment.
    pub fn add(&mut self, enrolment: Enrolment) {
        let name = enrolment.agent.clone();
        for key in std::iter::once(&enrolment.key).chain(enrolment.former.iter().map(|one| &one.key)) {
            self.keys.insert(key.text(), name.clone());
        }
        if let Some(token) = &enrolment.token {
            self.by_token.entry(token.clone()).or_default().insert(enrolment.key.text());
        }
        self.by_name.insert(name, enrolment);
    }

    /// The newest enrolment of an agent.
    #[must_use]
    pub fn get(&self, agent: &AgentId) -> Option<&Enrolment> {
        self.by_name.get(agent)
    }

    /// How many hosts a token let in.
    #[must_use]
    pub fn used(&self, token: &str) -> u32 {
        self.by_token.get(token).map_or(0, |keys| u32::try_from(keys.len()).unwrap_or(u32::MAX))
    }

    /// Decides about a request that counts. `by_person`: somebody looked at it and lets the host in.
    #[must_use]
    pub fn decide(&self, checked: &Checked, now: i64, by_person: bool) -> Decision {
        let Checked { request, grant } = checked;
        let refuse = |reason: &str| Decision::Refuse(reason.to_owned());
        let known = self.by_name.get(&request.agent);
        if let Some(owner) = self.keys.get(&request.key.text()) {
            // The same request once more, whoever sent it: the record is there, and nothing new comes of it.
            return match known {
                Some(known) if *owner == request.agent && known.key == request.key && !known.revoked => {
                    Decision::Again(Box::new(known.clone()))
                }
                _ => refuse(
                    "this key was revoked or replaced, or belongs to another agent: delete it and join again",
                ),
            };
        }
        if !grant.allows_name(&request.agent) {
            return refuse("the token does not permit this name");
        }
        if self.used(&grant.id) >= grant.uses {
            return Decision::Refuse(format!(
                "the token has been used for all {} permitted hosts",
                grant.uses
            ));
        }
        if known.is_some_and(|known| !known.revoked) {
            return refuse(
                "another host has this name: choose another with --name, or have an administrator revoke that host",
            );
        }
        if by_person {
            return Decision::Admit;
        }
        if now > grant.not_after {
            return refuse("the token has expired or was revoked");
        }
        if known.is_some() {
            return Decision::Ask("a host of this name was revoked");
        }
        if grant.approved {
            Decision::Admit
        } else {
            Decision::Ask("the token requires approval by a person")
        }
    }
}

#[cfg(test)]
mod tests;
