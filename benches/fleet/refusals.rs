//! Actions that no agent may run, sent to all of them by somebody who may do everything on the broker.
//!
//! Every agent decides by the code of real agents and keeps its real replay log on disk. Each kind must be refused
//! by every agent under its own code and be run by none, and good actions must be run by exactly those they are
//! for. These are counts, not times.

use serde_json::{Value, json};
use vigie_fleet::action::{Envelope, MAX_ENVELOPE_BYTES, NAMESPACE};
use vigie_fleet::policy::MAX_WINDOW_SECONDS;

use crate::Size;
use crate::fan_out::no_problems;
use crate::set_up::{ALICE, BOB, Fleet, People, action, envelope, key, now};
use crate::simulator::Counts;
use crate::simulators::Simulators;
use crate::token::{TOUCHED, Token, armour, without_armour};
use vigie_benchmark::{BenchResult, Goal, Measure, Report};

/// Numbers of the keys of people who may not ask anything.
const REVOKED: u8 = 3;
const FORMER: u8 = 4;
const STRANGER: u8 = 66;

/// For every agent.
const EVERYBODY: &str = r#"os == "linux""#;

/// An action, what it is, and the code under which agents refuse it; none: they run it.
struct Case {
    what: &'static str,
    code: Option<&'static str>,
    envelope: Vec<u8>,
}

impl Case {
    fn bad(what: &'static str, code: &'static str, envelope: Vec<u8>) -> Self {
        Self { what, code: Some(code), envelope }
    }

    fn good(what: &'static str, envelope: Vec<u8>) -> Self {
        Self { what, code: None, envelope }
    }
}

/// Row 6.
pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let token = Token::new();
    let people = People::from([
        ("former".to_owned(), json!({"keys": [{"key": key(FORMER).public_key(), "not_after": now() - 60}]})),
        ("holder".to_owned(), json!({"keys": [{"key": token.public_line(), "touch": true}]})),
    ]);
    let revoked = [key(REVOKED).public_key().fingerprint().to_string()];
    let fleet = Fleet::start(&people, &revoked).await?;
    let mut start = fleet.simulated(size.agents, None);
    start.replay_logs = Some(fleet.directory());
    let mut simulators = Simulators::start(&start).await?;
    let mut test = Test { fleet, agents: u64::from(size.agents), ran: 0, report };

    // A good one first: what is refused afterwards is not refused because nothing works.
    let good = envelope(&action(EVERYBODY)?, &[ALICE])?;
    test.good(&mut simulators, Case::good("for every agent", good.clone()), size.agents.into()).await?;
    let mut ran = 0;
    let mut kinds = 0;
    for case in bad_cases(&token, &good)? {
        ran += test.bad(&mut simulators, &case).await?;
        kinds += 1;
    }
    simulators.restart().await?;
    let case = Case::bad("sent again after all agents were started again", "replayed", good);
    ran += test.bad(&mut simulators, &case).await?;
    kinds += 1;

    let half = envelope(&action(r#"tag.half == "a""#)?, &[ALICE])?;
    test.good(&mut simulators, Case::good("for half of them", half), u64::from(size.agents.div_ceil(2)))
        .await?;
    let mut by_two = action(EVERYBODY)?;
    by_two["ops"][0]["module"] = "file".into();
    let by_two = envelope(&by_two, &[ALICE, BOB])?;
    test.good(&mut simulators, Case::good("signed by two, as it must be", by_two), size.agents.into())
        .await?;
    let touched = signed_by_token(&action(EVERYBODY)?, &token, TOUCHED)?;
    test.good(&mut simulators, Case::good("signed by a token that was touched", touched), size.agents.into())
        .await?;

    let total = simulators.counts().await?;
    let unaccounted = total.ran.abs_diff(test.ran) + ran;
    report.add(row("kinds of bad action", kinds as f64, "kinds").goal(Goal::AtLeast(16.0)));
    report.add(row("bad actions that an agent ran", unaccounted as f64, "runs").goal(Goal::AtMost(0.0)));
    no_problems(&mut simulators).await
}

fn row(what: impl Into<String>, value: f64, unit: &'static str) -> Measure {
    Measure::new("6 refusals", what, value, unit)
}

struct Test<'r> {
    fleet: Fleet,
    agents: u64,
    /// Runs that good actions are good for.
    ran: u64,
    report: &'r mut Report,
}

impl Test<'_> {
    /// Sends an action and waits until every agent has decided; what happened before and what has happened since.
    async fn send(&self, simulators: &mut Simulators, case: &Case) -> BenchResult<(Counts, Counts)> {
        let before = simulators.counts().await?;
        let decided = |counts: &Counts| counts.ran + counts.refused.values().sum::<u64>();
        let awaited = decided(&before) + self.agents;
        let names: Vec<_> = (0..u32::try_from(self.agents)?).map(crate::simulator::name).collect();
        self.fleet.tell(&names, &case.envelope).await?;
        let after = simulators.until(case.what, |counts| decided(counts) >= awaited).await?;
        Ok((before, after))
    }

    /// Says how many agents ran it.
    async fn bad(&mut self, simulators: &mut Simulators, case: &Case) -> BenchResult<u64> {
        let (before, after) = self.send(simulators, case).await?;
        let code = case.code.unwrap_or_default();
        let of = |counts: &Counts| counts.refused.get(code).copied().unwrap_or_default();
        let refused = of(&after) - of(&before);
        let what = format!("{}: refused as {code}", case.what);
        self.report.add(row(what, refused as f64, "agents").goal(Goal::AtLeast(self.agents as f64)));
        Ok(after.ran - before.ran)
    }

    /// Checks that exactly so many agents run it.
    async fn good(&mut self, simulators: &mut Simulators, case: Case, expected: u64) -> BenchResult<()> {
        let (before, after) = self.send(simulators, &case).await?;
        let ran = after.ran - before.ran;
        self.ran += expected;
        let missing = ran.abs_diff(expected);
        self.report.add(row(format!("good action {}: run by", case.what), ran as f64, "agents"));
        let what = format!("good action {}: more or fewer than it is for", case.what);
        self.report.add(row(what, missing as f64, "agents").goal(Goal::AtMost(0.0)));
        Ok(())
    }
}

/// A good action, changed before it is signed by alice.
fn changed(change: impl FnOnce(&mut Value)) -> BenchResult<Vec<u8>> {
    let mut action = action(EVERYBODY)?;
    change(&mut action);
    envelope(&action, &[ALICE])
}

/// A good envelope, changed after it was signed.
fn tampered(change: impl FnOnce(&mut Envelope)) -> BenchResult<Vec<u8>> {
    let mut envelope: Envelope = serde_json::from_slice(&changed(|_| ())?)?;
    change(&mut envelope);
    Ok(serde_json::to_vec(&envelope)?)
}

fn signed_by_token(action: &Value, token: &Token, flags: u8) -> BenchResult<Vec<u8>> {
    let action = action.to_string();
    let sigs = vec![token.sign(NAMESPACE, action.as_bytes(), flags)];
    Ok(serde_json::to_vec(&Envelope { action, sigs })?)
}

/// A signature by the stranger that says it is alice's.
fn forged() -> BenchResult<Vec<u8>> {
    let action = action(EVERYBODY)?.to_string();
    let signature = key(STRANGER).sign(NAMESPACE, action.as_bytes())?;
    let mut bytes = without_armour(&signature).ok_or("the signature has no armour")?;
    let of_key = |number: u8| {
        let line = key(number).public_key().to_string();
        let blob = line.split(' ').nth(1).and_then(|blob| data_encoding::BASE64.decode(blob.as_bytes()).ok());
        blob.ok_or("the key has no line")
    };
    let (stranger, alice) = (of_key(STRANGER)?, of_key(ALICE)?);
    let place = bytes.windows(stranger.len()).position(|window| window == stranger);
    let place = place.ok_or("the signature does not hold its key")?;
    bytes[place..place + alice.len()].copy_from_slice(&alice);
    Ok(serde_json::to_vec(&Envelope { action, sigs: vec![armour(&bytes)] })?)
}

fn bad_cases(token: &Token, good: &[u8]) -> BenchResult<Vec<Case>> {
    let plain = action(EVERYBODY)?;
    let window = i64::from(MAX_WINDOW_SECONDS);
    let other_namespace = {
        let action = action(EVERYBODY)?.to_string();
        let sigs = vec![key(ALICE).sign("git", action.as_bytes())?];
        serde_json::to_vec(&Envelope { action, sigs })?
    };
    Ok(vec![
        Case::bad("signature of a stranger under an investigator's key", "bad_signature", forged()?),
        Case::bad("key that nobody knows", "unknown_key", envelope(&plain, &[STRANGER])?),
        Case::bad("revoked key", "revoked_key", envelope(&plain, &[REVOKED])?),
        Case::bad("key whose time is over", "key_not_valid_now", envelope(&plain, &[FORMER])?),
        Case::bad(
            "parameters changed after signing",
            "bad_signature",
            tampered(|envelope| envelope.action = envelope.action.replace("\"22\"", "\"23\""))?,
        ),
        Case::bad(
            "target changed after signing",
            "bad_signature",
            tampered(|envelope| envelope.action = envelope.action.replace(r#"os == \"linux\""#, "all"))?,
        ),
        Case::bad("no signature", "no_signature", tampered(|envelope| envelope.sigs.clear())?),
        Case::bad(
            "nine signatures",
            "too_many_signatures",
            tampered(|envelope| envelope.sigs = vec![envelope.sigs[0].clone(); 9])?,
        ),
        Case::bad("the same key twice", "same_key_twice", envelope(&plain, &[ALICE, ALICE])?),
        Case::bad("signed for another purpose", "wrong_namespace", other_namespace),
        Case::bad("token that was not touched", "no_touch", signed_by_token(&plain, token, 0)?),
        Case::bad(
            "expired",
            "expired",
            changed(|action| {
                action["not_before"] = json!(now() - 7200);
                action["not_after"] = json!(now() - 3600);
            })?,
        ),
        Case::bad(
            "not yet valid",
            "not_yet_valid",
            changed(|action| {
                action["not_before"] = json!(now() + 1800);
                action["not_after"] = json!(now() + 3600);
            })?,
        ),
        Case::bad(
            "valid for too long",
            "window_too_long",
            changed(|action| action["not_after"] = json!(now() - 60 + window))?,
        ),
        Case::bad("sent again", "replayed", good.to_vec()),
        Case::bad(
            "signed for another agent by name",
            "not_targeted",
            changed(|action| action["agents"] = json!(["somebody-else"]))?,
        ),
        Case::bad(
            "signed for another agent by target",
            "not_targeted",
            changed(|action| action["target"] = json!(r#"agent == "somebody-else""#))?,
        ),
        Case::bad("target that is none", "bad_target", changed(|action| action["target"] = json!("os =="))?),
        Case::bad(
            "one signature where two are needed",
            "too_little_weight",
            changed(|action| action["ops"][0]["module"] = json!("file"))?,
        ),
        Case::bad(
            "module that nobody may ask",
            "no_rule",
            changed(|action| action["ops"][0]["module"] = json!("timedrift"))?,
        ),
        Case::bad(
            "module that no agent has",
            "unknown_module",
            changed(|action| action["ops"][0]["module"] = json!("shell"))?,
        ),
        Case::bad(
            "more time than the policy gives",
            "over_limits",
            changed(|action| action["limits"]["seconds"] = json!(86_400))?,
        ),
        Case::bad("another fleet's", "wrong_org", changed(|action| action["org"] = json!("other"))?),
        Case::bad("of a later form", "unknown_version", changed(|action| action["v"] = json!(2))?),
        Case::bad(
            "field that nobody knows",
            "unknown_field",
            changed(|action| action["unless"] = json!("x"))?,
        ),
        Case::bad("no envelope", "malformed", b"{\"action\":".to_vec()),
        Case::bad(
            "larger than an envelope may be",
            "too_large",
            changed(|action| action["ops"][0]["params"] = json!("x".repeat(MAX_ENVELOPE_BYTES)))?,
        ),
    ])
}
