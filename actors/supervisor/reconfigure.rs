//! A new configuration: which modules are to run, and what becomes of those that do.

use actix::{AsyncContext, Context, Handler};
use slog::info;
use vigie_config::difference::ModuleChange;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::Subject;
use vigie_protocol::module_name::ModuleName;

use super::module::{Module, Phase};
use super::restart::RestartHistory;
use super::{Supervisor, confirmed, kept_histories, send};
use crate::config_loader::ConfigChanged;
use crate::life::EndReason;
use crate::module_process::{Reconfigure, TakeAgentConfig};
use crate::socket_registry::Life;

impl Supervisor {
    /// Takes over what the agent before this one knew of the modules.
    pub(super) fn restore_kept(&mut self) {
        let state_dir = &self.config.agent.agent.state_dir;
        let is_wanted = |name: &ModuleName| self.modules.get(name).is_some_and(Module::is_wanted);
        for (name, confirmed) in confirmed::load(state_dir, is_wanted, &self.log) {
            if let Some(module) = self.modules.get_mut(&name) {
                module.confirmed = Some(confirmed);
            }
        }
        let most = self.config.agent.restart.breaker_deaths as usize;
        for (name, history) in kept_histories::load(state_dir, most) {
            if let Some(module) = self.modules.get_mut(&name) {
                module.history = history;
            }
        }
    }

    /// Takes over the specs of the configuration, without touching any process.
    pub(super) fn take_specs(&mut self) {
        for module in self.modules.values_mut() {
            module.spec = None;
        }
        for spec in &self.config.modules {
            let module = self.modules.entry(spec.name().clone()).or_insert_with(Module::new);
            module.spec = Some(spec.clone());
            let problem = spec.config.problem().map(ToString::to_string);
            let reporter = self.services.conditions.about(Subject::Module(spec.name().clone()));
            reporter.set(AgentCondition::ModuleConfigurationInvalid, problem);
        }
        for (name, module) in &mut self.modules {
            // Whoever switches a module off or takes it away does not want its old configuration back.
            if !module.is_wanted() && module.confirmed.take().is_some() {
                confirmed::store(&self.config.agent.agent.state_dir, name, None, &self.log);
            }
        }
    }

    fn apply_change(&mut self, change: &ModuleChange, ctx: &mut Context<Self>) {
        let name = change.module();
        let grace = self.config.agent.agent.stop_grace;
        self.forget_refusal(name);
        let Some(module) = self.modules.get_mut(name) else { return };
        let living = module.living().cloned();
        let is_kept =
            living.is_some() && matches!(change, ModuleChange::Start { .. } | ModuleChange::Stop { .. });
        if !is_kept {
            // A changed module has not failed yet.
            module.history = RestartHistory::default();
        }
        if living.is_none() {
            return self.start_module(name, ctx);
        }
        match change {
            // Removed and added again while its last life still ends: the exit starts it.
            ModuleChange::Start { .. } => {}
            ModuleChange::Stop { .. } => self.stop_module(name, EndReason::Removed, grace),
            ModuleChange::Restart { .. } => self.stop_module(name, EndReason::ConfigChanged, grace),
            ModuleChange::Reconfigure { .. } => self.give_config(name, ctx),
        }
    }

    /// The module is to try its newest configuration, which it may have refused.
    pub(super) fn forget_refusal(&mut self, name: &ModuleName) {
        self.reporter(name).clear(AgentCondition::ModuleConfigurationRefused);
        if let Some(module) = self.modules.get_mut(name) {
            module.refused_config = None;
        }
    }

    /// Starts a module that does not live as if it had neither refused nor failed.
    pub(super) fn try_anew(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        self.forget_refusal(name);
        if let Some(module) = self.modules.get_mut(name) {
            module.history = RestartHistory::default();
        }
        self.start_module(name, ctx);
    }

    /// Gives a module that lives its configuration anew; the next life of any other begins with it.
    pub(super) fn give_config(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        let Some(module) = self.modules.get_mut(name) else { return };
        let Some(process) = module.living().cloned() else { return };
        module.reconfigured = true;
        if let Some(config_line) = self.config_line(name) {
            send(&process, Reconfigure { config_line });
        }
        self.await_confirmation(name, ctx);
    }

    /// Forgets modules that are no longer configured and of which nothing lives.
    pub(super) fn forget_removed(&mut self, ctx: &mut Context<Self>) {
        let removed = |module: &Module| module.spec.is_none() && module.living().is_none();
        let names: Vec<_> =
            self.modules.iter().filter(|(_, module)| removed(module)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.tell_life(&name, Life::Removed);
            self.reporter(&name).forget();
            if let Some(Module { phase: Phase::Waiting { timer, .. }, .. }) = self.modules.remove(&name) {
                ctx.cancel_future(timer);
            }
        }
    }
}

impl Handler<ConfigChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, ctx: &mut Self::Context) {
        self.config = change.config.clone();
        self.take_specs();
        for process in self.modules.values().filter_map(Module::living) {
            send(process, TakeAgentConfig(self.config.agent.clone()));
        }
        for change in &change.difference.changes {
            info!(self.log, "configuration of a module changed"; "module" => %change.module(),
                "change" => %change);
            self.apply_change(change, ctx);
        }
        self.forget_removed(ctx);
    }
}
