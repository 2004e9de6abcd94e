//! Writes samples in one of the two formats.

use std::fmt::Write as _;

use crate::Form;
use crate::collect::Sample;
use crate::families::{FAMILIES, Kind};

/// The whole page; a metric without a sample is left out.
pub(crate) fn page(samples: &[Sample], form: Form) -> String {
    let mut page = String::with_capacity(8 << 10);
    for family in FAMILIES {
        let of_family: Vec<&Sample> = samples.iter().filter(|sample| sample.family == family).collect();
        if of_family.is_empty() {
            continue;
        }
        let (kind, described) = match (family.kind, form) {
            (Kind::Gauge, _) => ("gauge", family.name),
            (Kind::Counter, Form::Text) => ("counter", family.name),
            // There the suffix belongs to the sample and not to the metric.
            (Kind::Counter, Form::OpenMetrics) => {
                ("counter", family.name.strip_suffix("_total").unwrap_or(family.name))
            }
        };
        page.push_str(&format!("# HELP {described} {}\n# TYPE {described} {kind}\n", family.help));
        for sample in of_family {
            page.push_str(family.name);
            labels(&mut page, &sample.labels);
            writeln!(page, " {}", sample.value).expect("a String takes everything");
        }
    }
    if form == Form::OpenMetrics {
        page.push_str("# EOF\n");
    }
    page
}

fn labels(page: &mut String, labels: &[(&'static str, String)]) {
    let mut before = '{';
    for (name, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        page.push(before);
        page.push_str(name);
        page.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => page.push_str("\\\\"),
                '"' => page.push_str("\\\""),
                '\n' => page.push_str("\\n"),
                other => page.push(other),
            }
        }
        page.push('"');
        before = ',';
    }
    if before == ',' {
        page.push('}');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::families;

    fn sample(value: &str) -> Sample {
        Sample { family: &families::BUILD_INFO, labels: vec![("version", value.to_owned())], value: 1.0 }
    }

    #[test]
    fn counters_have_their_suffix_where_each_format_wants_it() {
        let samples = [Sample { family: &families::MODULE_RESTARTS, labels: vec![], value: 3.0 }];

        let text = page(&samples, Form::Text);
        let open = page(&samples, Form::OpenMetrics);

        assert!(text.contains("# TYPE vigie_module_restarts_total counter\nvigie_module_restarts_total 3\n"));
        assert!(
            open.contains("# TYPE vigie_module_restarts counter\nvigie_module_restarts_total 3\n# EOF\n")
        );
    }

    #[test]
    fn a_label_without_a_value_is_not_written() {
        assert!(page(&[sample("")], Form::Text).ends_with("\nvigie_build_info 1\n"));
    }

    proptest! {
        #[test]
        fn no_value_of_a_label_can_forge_a_line(value in ".*") {
            let page = page(&[sample(&value)], Form::Text);

            let lines: Vec<&str> = page.split('\n').collect();
            prop_assert_eq!(lines.len(), 4);
            if let Some(quoted) = lines[2].strip_prefix("vigie_build_info{version=\"").and_then(|rest| rest.strip_suffix("\"} 1")) {
                let mut back = String::new();
                let mut letters = quoted.chars();
                while let Some(letter) = letters.next() {
                    match letter {
                        '\\' => back.push(match letters.next() { Some('n') => '\n', Some(other) => other, None => '?' }),
                        '"' => prop_assert!(false, "a bare quote"),
                        other => back.push(other),
                    }
                }
                prop_assert_eq!(back, value);
            } else {
                prop_assert_eq!(value, "");
            }
        }
    }
}
