use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::model::{Model, predicates, some_facts};
use crate::facts::Facts;
use crate::predicate::Target;

/// How many random texts are tried; `VIGIE_TARGET_CASES` in the environment sets another number.
const CASES: u32 = 5_000;

fn target(model: &Model) -> Target {
    let text = model.to_string();
    Target::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}\n{}", error.caret()))
}

/// The facts as the other side has them.
fn sent(facts: &Facts) -> Facts {
    Facts::from_json(&serde_json::to_vec(facts).unwrap()).unwrap()
}

/// Texts that are made of the language's own pieces, in any order.
fn soups() -> impl Strategy<Value = String> {
    let pieces = [
        "os",
        "hostname",
        "tag.a",
        "tag.",
        "module",
        "addr",
        "kernel",
        "nonsense",
        "all",
        "and",
        "in",
        "has",
        "cidr",
        "==",
        "!=",
        "~",
        "<",
        "<=",
        ">",
        ">=",
        "=",
        "&&",
        "||",
        "&",
        "!",
        "(",
        ")",
        "[",
        "]",
        ",",
        "\"a\"",
        "\"*?\"",
        "\"",
        "\\",
        "12",
        "6.1.0-13",
        "\"10.0.0.0/8\"",
        "\"::1\"",
        " ",
        "\n",
        "é",
        "\u{0}",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..24).prop_map(|pieces| pieces.join(" "))
}

/// Good texts with one place spoilt.
fn spoilt() -> impl Strategy<Value = String> {
    (predicates(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<char>()).prop_map(
        |(model, from, to, other)| {
            let mut text: Vec<char> = model.to_string().chars().collect();
            let (from, to) = (from.index(text.len()), to.index(text.len()));
            text[from] = if other > '\u{8000}' { text[to] } else { other };
            text.into_iter().collect()
        },
    )
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => any::<String>(),
        2 => soups(),
        3 => spoilt(),
        4 => predicates().prop_map(|model| model.to_string()),
    ]
}

#[test]
fn random_texts_never_panic_and_both_sides_agree() {
    let cases = std::env::var("VIGIE_TARGET_CASES").map_or(CASES, |cases| cases.parse().expect("a number"));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let hosts = prop::collection::vec(some_facts(), 16).new_tree(&mut runner).unwrap().current();
    let inventory: Vec<Facts> = hosts.iter().map(sent).collect();
    let good = std::cell::Cell::new(0_u32);

    let result = runner.run(&any_text(), |text| {
        match Target::parse(&text) {
            Ok(target) => {
                good.set(good.get() + 1);
                let written = target.to_string();
                prop_assert_eq!(&Target::parse(&written).unwrap(), &target, "{}", written);
                for (host, known) in hosts.iter().zip(&inventory) {
                    prop_assert_eq!(target.matches(host), target.matches(known), "{:?}", host);
                }
            }
            Err(error) => {
                prop_assert!(error.to_string().len() < 600, "{}", error);
                prop_assert!(!error.to_string().contains(char::is_control), "{}", error);
                prop_assert_eq!(error.caret().lines().count(), 2);
            }
        }
        Ok(())
    });

    result.unwrap();
    assert!(good.get() > cases / 3, "{} of {cases} are targets", good.get());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_second_evaluator_agrees(model in predicates(), facts in some_facts()) {
        let json = serde_json::to_value(&facts).unwrap();
        prop_assert_eq!(target(&model).matches(&facts), model.holds(&json), "{}", model);
    }

    #[test]
    fn logic_has_its_laws(a in predicates(), b in predicates(), c in predicates(), facts in some_facts()) {
        let same = |left: Model, right: Model| {
            let (left, right) = (target(&left), target(&right));
            prop_assert_eq!(left.matches(&facts), right.matches(&facts), "{} and {}", left, right);
            Ok(())
        };
        let (a, b, c) = (|| a.clone(), || b.clone(), || c.clone());

        same(a().and(b()).not(), a().not().or(b().not()))?;
        same(a().or(b()).not(), a().not().and(b().not()))?;
        same(a().not().not(), a())?;
        same(a().and(b()), b().and(a()))?;
        same(a().or(b()), b().or(a()))?;
        same(a().and(b()).and(c()), a().and(b().and(c())))?;
        same(a().and(b().or(c())), a().and(b()).or(a().and(c())))?;
        same(a().or(a().not()), Model::All)?;
        same(a().and(Model::All), a())?;
    }

    #[test]
    fn grouping_and_order_of_writing_make_equal_targets(a in predicates(), b in predicates(), c in predicates()) {
        let (a, b, c) = (|| a.clone(), || b.clone(), || c.clone());
        prop_assert_eq!(target(&a().and(b()).and(c())), target(&a().and(b().and(c()))));
        prop_assert_eq!(target(&a().or(b()).or(c())), target(&a().or(b().or(c()))));
    }

    #[test]
    fn a_version_is_less_equal_or_greater(
        left in "[0-9][0-9a-c.-]{0,6}", right in "[0-9][0-9a-c.-]{0,6}", facts in some_facts()
    ) {
        let facts = Facts { kernel: left, ..facts };
        let holds = |operator: &str| {
            Target::parse(&format!("kernel {operator} {right}")).unwrap().matches(&facts)
        };
        prop_assert_ne!(holds("<"), holds(">="));
        prop_assert_ne!(holds(">"), holds("<="));
        prop_assert!(holds("<=") || holds(">="));
    }
}
