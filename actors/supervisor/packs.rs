//! What the fleet's signed policy has for modules, on its way to them.

use std::collections::BTreeMap;

use actix::{Context, Handler, Message};
use slog::info;
use vigie_fleet::policy::Packs;
use vigie_protocol::module_name::ModuleName;

use super::Supervisor;
use super::module::Module;

/// All that the policy has, by module and name. Sent by `FleetLink` when a policy comes into force, when it begins to
/// join a fleet, and when the agent trusts others or belongs to no fleet any more.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub struct TakePacks(pub(crate) Packs);

impl Handler<TakePacks> for Supervisor {
    type Result = ();

    fn handle(&mut self, TakePacks(packs): TakePacks, ctx: &mut Context<Self>) {
        let before = std::mem::replace(&mut self.packs, packs);
        let differs = |name: &&ModuleName| before.get(name.as_str()) != self.packs.get(name.as_str());
        let names: Vec<ModuleName> = self.modules.keys().filter(differs).cloned().collect();
        for name in names {
            let count = self.packs.get(name.as_str()).map_or(0, BTreeMap::len);
            info!(self.log, "the fleet's policy has other packs for a module"; "module" => %name, "packs" => count);
            if self.modules.get(&name).is_some_and(Module::has_given_up) {
                self.try_anew(&name, ctx);
            } else {
                self.give_config(&name, ctx);
            }
        }
    }
}
