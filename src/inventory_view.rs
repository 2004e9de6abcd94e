//! Answers of the modules that list what is on a host, for people: tables, and what was not examined.

use vigie_protocol::result::ModuleResult;

use crate::print::{Paint, Tone, safe};
use crate::{accounts_view, persistence_view};

/// The text of an answer; `None` when the module has no tables, or the answer has another form.
pub(crate) fn render(
    module: &str,
    result: &ModuleResult,
    paint: Paint,
    width: Option<u16>,
) -> Option<String> {
    if !result.success {
        return None;
    }
    let mut text = match module {
        "accounts" => accounts_view::tables(result, paint, width)?,
        "persistence" => persistence_view::table(result, paint, width)?,
        _ => return None,
    };
    if text.is_empty() {
        let word = if result.is_not_known() {
            "found nothing, but did not examine everything"
        } else {
            "found nothing"
        };
        text = format!("{module}: {word}\n");
    }
    for skipped in result.coverage.iter().flat_map(|coverage| &coverage.not_examined) {
        let label = paint.text(Tone::Doubtful, "not examined");
        text.push_str(&format!("{label} {}: {}\n", safe(&skipped.what), safe(&skipped.why)));
    }
    for error in result.errors.iter().flatten() {
        text.push_str(&format!("{} {}\n", paint.text(Tone::Doubtful, "error"), safe(error)));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vigie_protocol::result::Coverage;

    use super::*;

    #[test]
    fn nothing_found_is_told_with_what_was_not_examined() {
        let mut coverage = Coverage::whole();
        coverage.skip("/x\u{1b}", "denied");
        let result = ModuleResult::found(false, &json!({"entries": []})).with_coverage(coverage);

        let text = render("persistence", &result, Paint::new(false), None).unwrap();

        assert_eq!(
            text,
            "persistence: found nothing, but did not examine everything\nnot examined /x\\u{1b}: denied\n"
        );
        assert_eq!(render("file", &result, Paint::new(false), None), None);
    }
}
