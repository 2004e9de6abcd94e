//! Which configuration a module has, as far as the module itself said so. Pure: no clock, no I/O.

use vigie_protocol::control::{InForce, ModuleConfigStatus};
use vigie_protocol::message::ConfiguredParameters;
use vigie_protocol::module_name::ModuleName;

/// How many errors of a module are kept, and how long each may be in bytes.
const MAX_ERRORS: usize = 8;
const MAX_ERROR_BYTES: usize = 512;

/// What is known of the newest configuration that was sent to a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confirmation {
    generation: u64,
    state: InForce,
    errors: Vec<String>,
}

impl Confirmation {
    /// A configuration that was just sent.
    #[must_use]
    pub(crate) fn sent(generation: u64) -> Self {
        Self { generation, state: InForce::Unconfirmed, errors: Vec::new() }
    }

    /// The module runs no more: what it said no longer holds, but why it refused stays known.
    pub(crate) fn ended(&mut self) {
        if self.state != InForce::Refused {
            self.state = InForce::NotRunning;
        }
    }

    /// The module answered its first heartbeat after a start. For a module that `confirms`, that says nothing of its
    /// configuration.
    pub(crate) fn ready(&mut self, confirms: bool) {
        let unsure = matches!(self.state, InForce::Unconfirmed | InForce::Unanswered);
        if unsure && !confirms {
            self.state = InForce::InForce;
        }
    }

    /// The module said what became of a configuration. What it says of another one is old.
    pub(crate) fn configured(&mut self, said: &ConfiguredParameters) {
        if said.generation != self.generation {
            return;
        }
        self.state = if said.ok { InForce::InForce } else { InForce::Refused };
        let cut = |error: &String| error[..error.floor_char_boundary(MAX_ERROR_BYTES)].to_owned();
        self.errors =
            if said.ok { Vec::new() } else { said.errors.iter().take(MAX_ERRORS).map(cut).collect() };
    }

    /// The process exited with 78: it refuses its configuration. `last_words` is what it wrote before.
    pub(crate) fn exited_with_config(&mut self, last_words: Option<String>) {
        self.state = InForce::Refused;
        if self.errors.is_empty() {
            self.errors.extend(last_words);
        }
    }

    /// The time for an answer is over. Returns whether the module stayed silent.
    pub(crate) fn overdue(&mut self, generation: u64) -> bool {
        let silent = generation == self.generation && self.state == InForce::Unconfirmed;
        if silent {
            self.state = InForce::Unanswered;
        }
        silent
    }

    /// Whether nothing more is awaited.
    #[must_use]
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self.state, InForce::Unconfirmed | InForce::NotRunning)
    }

    /// Whether the module has the configuration.
    #[must_use]
    pub(crate) fn is_in_force(&self) -> bool {
        self.state == InForce::InForce
    }

    /// Why it is not in force, for people; `None` when it is, or may still be.
    #[must_use]
    pub(crate) fn problem(&self) -> Option<String> {
        let generation = self.generation;
        match self.state {
            InForce::InForce | InForce::Unconfirmed | InForce::NotRunning => None,
            InForce::Refused if self.errors.is_empty() => {
                Some(format!("configuration {generation} rejected"))
            }
            InForce::Refused => {
                Some(format!("configuration {generation} rejected: {}", self.errors.join("; ")))
            }
            InForce::Unanswered => Some(format!("configuration {generation} not confirmed")),
        }
    }

    /// The same for status and reload.
    #[must_use]
    pub(crate) fn status(&self, module: &ModuleName) -> ModuleConfigStatus {
        ModuleConfigStatus {
            module: module.clone(),
            generation: self.generation,
            state: self.state,
            errors: self.errors.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(generation: u64, ok: bool) -> ConfiguredParameters {
        let errors = if ok { Vec::new() } else { vec!["paths.path: not absolute".to_owned()] };
        ConfiguredParameters { generation, ok, errors }
    }

    #[test]
    fn only_the_word_of_the_module_about_this_configuration_counts() {
        let mut confirmation = Confirmation::sent(7);
        confirmation.configured(&said(6, true));
        confirmation.ready(true);
        assert!(!confirmation.is_in_force());

        confirmation.configured(&said(7, true));

        assert!(confirmation.is_in_force() && confirmation.is_settled());
        assert!(!confirmation.overdue(7));
    }

    #[test]
    fn a_module_that_never_confirms_has_it_when_it_is_ready_after_its_start() {
        let mut confirmation = Confirmation::sent(1);
        confirmation.ready(false);
        assert!(confirmation.is_in_force());
    }

    #[test]
    fn a_refusal_keeps_its_reason_over_the_end_of_the_process() {
        let mut confirmation = Confirmation::sent(2);
        confirmation.configured(&said(2, false));
        confirmation.exited_with_config(Some("last words".to_owned()));
        confirmation.ended();

        assert_eq!(
            confirmation.problem().as_deref(),
            Some("configuration 2 rejected: paths.path: not absolute")
        );
    }

    #[test]
    fn silence_is_said() {
        let mut confirmation = Confirmation::sent(3);
        assert!(!confirmation.overdue(2));
        assert!(confirmation.overdue(3));
        assert_eq!(confirmation.problem().as_deref(), Some("configuration 3 not confirmed"));
        confirmation.configured(&said(3, true));
        assert!(confirmation.is_in_force());
    }
}
