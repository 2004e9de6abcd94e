//! What a module that lives is known by: its capabilities, its query socket, the alerts and configurations that it
//! takes; and what is looked at with each heartbeat.

use std::rc::Rc;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use slog::{info, warn};
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::message::capability;

use super::dispatch::{DeliverLines, Delivery};
use super::intake::Registration;
use super::lifecycle::{Event, State};
use super::stdin::{Lines, Stdin};
use super::{ModuleProcess, Reconfigure};
use crate::alert_journal::GetJournalView;
use crate::life::EndReason;
use crate::socket_policy::{self, SocketRules};
use crate::socket_registry::{RegisterSocket, RegisteredSocket};

impl ModuleProcess {
    pub(super) fn register(&mut self, registration: Registration, ctx: &mut Context<Self>) {
        self.capabilities = Some(registration.capabilities);
        if self.can(capability::STOP) {
            self.step(Event::HonoursStop, ctx);
        }
        self.give_next_config(ctx);
        if self.can(capability::DISPATCH) {
            self.deliver_alerts(true, ctx);
        }
        let Some(pid) = self.child.as_ref().map(|child| child.pid()) else { return };
        if !self.lifecycle.is_live() {
            return;
        }
        if registration.sockpath.is_empty() {
            // A module that cannot be asked may still state what it can do.
            return;
        }
        let rules = self.socket_rules(pid);
        let registry = self.services.registry.clone();
        let (module, incarnation) = (self.spec.name().clone(), self.incarnation);
        let checking = async move {
            let spec = socket_policy::check(&registration.sockpath, rules).await?;
            let socket = RegisteredSocket { spec: spec.clone(), pid };
            match registry.send(RegisterSocket { module, incarnation, socket }).await {
                Ok(Ok(())) => Ok(spec),
                Ok(Err(refused)) => Err(refused.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        ctx.spawn(checking.into_actor(self).map(|checked, this, _| match checked {
            Ok(spec) => {
                this.socket = Some(spec);
                this.reporter.clear(AgentCondition::SocketRefused);
            }
            // A module that is being ended takes its socket away.
            Err(_) if !this.lifecycle.is_live() => {}
            Err(refused) => {
                warn!(this.log, "socket refused"; "error" => ?refused);
                *this.counters.dropped.entry("socket_refused").or_default() += 1;
                this.reporter.raise(AgentCondition::SocketRefused, refused);
            }
        }));
    }

    /// Gives the module the configuration that waited, now that it is known whether it takes one.
    pub(super) fn give_next_config(&mut self, ctx: &mut Context<Self>) {
        if let Some(line) = self.next_config.take() {
            self.reconfigure(line, ctx);
        }
    }

    fn reconfigure(&mut self, line: Vec<u8>, ctx: &mut Context<Self>) {
        if self.can(capability::RECONFIGURE) {
            info!(self.log, "module gets a new configuration");
            self.send_config(line, ctx);
        } else {
            let grace = self.config.agent.stop_grace;
            self.step(Event::Stop { reason: EndReason::ConfigChanged, grace }, ctx);
        }
    }

    /// Begins to hand the alerts of the other modules to this one, once in a life.
    pub(super) fn deliver_alerts(&mut self, acknowledges: bool, ctx: &mut Context<Self>) {
        let Some(closed) = self.stdin.as_mut().and_then(Stdin::closed) else { return };
        self.acknowledged = acknowledges.then(Rc::default);
        let (module, log) = (self.spec.name().clone(), self.log.clone());
        let (acknowledged, journal) = (self.acknowledged.clone(), self.services.journal.clone());
        let (state_dir, stdin) = (self.config.agent.state_dir.clone(), ctx.address().recipient());
        let delivering = async move {
            // The journal ends only with the agent.
            let Ok(view) = journal.send(GetJournalView).await else { return };
            let delivery = Delivery { module, state_dir, view, stdin, acknowledged, log };
            delivery.run(closed).await;
        };
        self.is_delivering = true;
        ctx.spawn(delivering.into_actor(self).map(|(), this, ctx| {
            this.is_delivering = false;
            this.finish_if_over(ctx);
        }));
    }

    /// Looks whether the registered query socket is still there and still the module's. Once a heartbeat, one look at a
    /// time: the file system may hang.
    pub(super) fn look_at_socket(&mut self, ctx: &mut Context<Self>) {
        let Some((spec, pid)) = self.socket.clone().zip(self.child.as_ref().map(|child| child.pid())) else {
            return;
        };
        if self.looking_at_socket || !self.lifecycle.is_live() {
            return;
        }
        self.looking_at_socket = true;
        let rules = self.socket_rules(pid);
        let looking = async move { socket_policy::check(&spec.to_string(), rules).await.err() };
        ctx.spawn(looking.into_actor(self).map(|missing, this, _| {
            this.looking_at_socket = false;
            if this.lifecycle.is_live() {
                this.reporter.set(AgentCondition::SocketMissing, missing);
            }
        }));
    }

    /// Looks whether the module ran into a limit since the last heartbeat.
    pub(super) fn look_at_limits(&mut self, ctx: &mut Context<Self>) {
        let Some(child) = self.child.clone() else { return };
        ctx.spawn(child.limit_hit().into_actor(self).map(|hit, this, _| {
            if this.lifecycle.is_live() {
                let detail = hit.map(|limit| format!("{} are used up", limit.name()));
                this.reporter.set(AgentCondition::LimitReached, detail);
            }
        }));
    }

    /// What is expected of the socket of the module's process.
    fn socket_rules(&self, pid: u32) -> SocketRules {
        let own = self.services.spawner.run_dir(&self.spec);
        SocketRules {
            directories: std::iter::once(own).chain(self.spec.section.socket_dir.clone()).collect(),
            allow_remote_tcp: self.spec.section.allow_remote_tcp,
            pid,
        }
    }
}

impl Handler<Reconfigure> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, order: Reconfigure, ctx: &mut Self::Context) {
        if !self.lifecycle.is_live() {
            // The next life begins with it.
        } else if self.child.is_none() {
            self.config_line = order.config_line;
        } else if self.lifecycle.state() == State::Starting && self.capabilities.is_none() {
            self.next_config = Some(order.config_line);
        } else {
            self.reconfigure(order.config_line, ctx);
        }
    }
}

impl Handler<DeliverLines> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, lines: DeliverLines, ctx: &mut Self::Context) {
        let DeliverLines { text, written } = lines;
        if let Some(stdin) = &mut self.stdin {
            stdin.deliver(Lines { text, written: Some(written) });
        }
        self.write_stdin(ctx);
    }
}
