//! Knows for each persistent module whether it can be asked, and where.
//!
//! Started by the agent before any module, stopped after them. Told by `Supervisor` and `ModuleProcess`, asked
//! by `QueryRouter`. Holds only what it was told, for the newest life of each module; what an earlier life says
//! is ignored. Writes nothing to disk and does not probe sockets.

use std::collections::BTreeMap;

use actix::{Actor, Context, Handler, Message, MessageResult};
use slog::{Logger, debug, info, o};
use vigie_protocol::socket::SocketSpec;

use crate::life::Incarnation;
use vigie_protocol::module_name::ModuleName;

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// Where a living module listens, checked by its `ModuleProcess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegisteredSocket {
    /// The socket.
    pub spec: SocketSpec,
    /// The module's process: whoever answers must be it or one of its session.
    pub pid: u32,
}

/// Sent by a `ModuleProcess` when its child registers; at most once per batch of lines that it reads. Refused
/// or lost: the module cannot be asked, nothing else breaks.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), RegisterRefused>")]
pub(crate) struct RegisterSocket {
    /// The module.
    pub module: ModuleName,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where it listens.
    pub socket: RegisteredSocket,
}

/// Why a socket is not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegisterRefused {
    /// Another module listens there.
    #[error("socket {spec:?} belongs to module {owner}")]
    Taken {
        /// The socket.
        spec: String,
        /// Who has it.
        owner: ModuleName,
    },
    /// The life that registers is over.
    #[error("the registering process was replaced by a newer one")]
    Stale,
}

/// Sent by `Supervisor` at every change in a module's life; at most a few in a second for one module. Lost: a
/// query is answered with an older state.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ModuleLifeChanged {
    /// The module.
    pub module: ModuleName,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What it does now.
    pub life: Life,
}

/// Whether a module lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// Its process runs.
    Living,
    /// It is being ended.
    Stopping,
    /// It does not run; for people: `waits 2 s before it is started again after exited(1)`.
    Down(String),
    /// It is no longer configured.
    Removed,
}

/// Asks where a module listens.
#[derive(Debug, Message)]
#[rtype(result = "Result<RegisteredSocket, NoSocket>")]
pub(crate) struct FindSocket(pub ModuleName);

/// Why a module cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSocket {
    /// No such module is running or waiting to run.
    #[error("is not running")]
    Unknown,
    /// It has not registered a socket yet, or never does.
    #[error("is running but has not registered a query socket")]
    NotRegistered,
    /// It is being ended.
    #[error("is being stopped")]
    Stopping,
    /// It does not run.
    #[error("{0}")]
    Down(String),
}

/// The actor.
pub struct SocketRegistry {
    log: Logger,
    modules: BTreeMap<ModuleName, Entry>,
}

struct Entry {
    incarnation: Incarnation,
    life: Life,
    socket: Option<RegisteredSocket>,
}

impl SocketRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new(log: &Logger) -> Self {
        Self { log: log.new(o!("component" => "socket_registry")), modules: BTreeMap::new() }
    }
}

impl Actor for SocketRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<ModuleLifeChanged> for SocketRegistry {
    type Result = ();

    fn handle(&mut self, change: ModuleLifeChanged, _: &mut Self::Context) {
        if change.life == Life::Removed {
            self.modules.remove(&change.module);
            return;
        }
        let entry = self.modules.entry(change.module).or_insert(Entry {
            incarnation: change.incarnation,
            life: Life::Living,
            socket: None,
        });
        if change.incarnation < entry.incarnation {
            return;
        }
        if change.incarnation > entry.incarnation || matches!(change.life, Life::Down(_)) {
            entry.socket = None;
        }
        entry.incarnation = change.incarnation;
        entry.life = change.life;
    }
}

impl Handler<RegisterSocket> for SocketRegistry {
    type Result = Result<(), RegisterRefused>;

    fn handle(&mut self, register: RegisterSocket, _: &mut Self::Context) -> Self::Result {
        // The usual path of a module is its own also before it listens there.
        let is_usual_of = |name: &ModuleName| {
            matches!(&register.socket.spec, SocketSpec::Unix(path)
                if path.file_name().is_some_and(|file| *file == *format!("persist-{name}.sock")))
        };
        let owner = self.modules.iter().find(|(name, entry)| {
            **name != register.module
                && (is_usual_of(name)
                    || entry.socket.as_ref().is_some_and(|socket| socket.spec == register.socket.spec))
        });
        if let Some((owner, _)) = owner {
            let spec = register.socket.spec.to_string();
            return Err(RegisterRefused::Taken { spec, owner: owner.clone() });
        }
        let entry = match self.modules.get_mut(&register.module) {
            Some(entry) if entry.incarnation == register.incarnation && entry.life == Life::Living => entry,
            _ => {
                debug!(self.log, "ignored a socket of a previous process"; "module" => %register.module,
                    "incarnation" => register.incarnation.0);
                return Err(RegisterRefused::Stale);
            }
        };
        if entry.socket.as_ref() != Some(&register.socket) {
            info!(self.log, "module can be queried"; "module" => %register.module,
                "incarnation" => register.incarnation.0, "socket" => %register.socket.spec);
            entry.socket = Some(register.socket);
        }
        Ok(())
    }
}

impl Handler<FindSocket> for SocketRegistry {
    type Result = MessageResult<FindSocket>;

    fn handle(&mut self, question: FindSocket, _: &mut Self::Context) -> Self::Result {
        let Some(entry) = self.modules.get(&question.0) else {
            return MessageResult(Err(NoSocket::Unknown));
        };
        MessageResult(match (&entry.life, &entry.socket) {
            (Life::Living, Some(socket)) => Ok(socket.clone()),
            (Life::Living, None) => Err(NoSocket::NotRegistered),
            (Life::Stopping, _) => Err(NoSocket::Stopping),
            (Life::Down(why), _) => Err(NoSocket::Down(why.clone())),
            (Life::Removed, _) => Err(NoSocket::Unknown),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::Addr;
    use slog::Discard;

    fn registry() -> Addr<SocketRegistry> {
        SocketRegistry::new(&Logger::root(Discard, o!())).start()
    }

    fn name(text: &str) -> ModuleName {
        text.parse().unwrap()
    }

    async fn live(registry: &Addr<SocketRegistry>, module: &str, incarnation: u64, life: Life) {
        let module = name(module);
        registry
            .send(ModuleLifeChanged { module, incarnation: Incarnation(incarnation), life })
            .await
            .unwrap();
    }

    async fn register(
        registry: &Addr<SocketRegistry>,
        module: &str,
        incarnation: u64,
        path: &str,
    ) -> Result<(), RegisterRefused> {
        let socket = RegisteredSocket { spec: format!("unix:{path}").parse().unwrap(), pid: 1 };
        let module = name(module);
        registry.send(RegisterSocket { module, incarnation: Incarnation(incarnation), socket }).await.unwrap()
    }

    #[actix_rt::test]
    async fn only_the_newest_life_of_a_module_can_register() {
        let registry = registry();
        live(&registry, "a", 1, Life::Living).await;
        live(&registry, "a", 2, Life::Living).await;

        let old = register(&registry, "a", 1, "/run/old").await;
        let new = register(&registry, "a", 2, "/run/new").await;

        assert_eq!(old, Err(RegisterRefused::Stale));
        assert_eq!(new, Ok(()));
        let found = registry.send(FindSocket(name("a"))).await.unwrap().unwrap();
        assert_eq!(found.spec.to_string(), "unix:/run/new");
    }

    #[actix_rt::test]
    async fn a_socket_of_another_module_is_refused() {
        let registry = registry();
        live(&registry, "a", 1, Life::Living).await;
        live(&registry, "b", 1, Life::Living).await;
        register(&registry, "a", 1, "/run/s").await.unwrap();

        let refused = register(&registry, "b", 1, "/run/s").await;

        assert!(matches!(refused, Err(RegisterRefused::Taken { owner, .. }) if owner == name("a")));
    }

    #[actix_rt::test]
    async fn the_usual_path_of_another_module_is_refused_also_before_that_one_listens() {
        let registry = registry();
        live(&registry, "a", 1, Life::Living).await;
        live(&registry, "b", 1, Life::Living).await;

        let refused = register(&registry, "b", 1, "/run/persist-a.sock").await;
        let own = register(&registry, "a", 1, "/run/persist-a.sock").await;

        assert!(matches!(refused, Err(RegisterRefused::Taken { owner, .. }) if owner == name("a")));
        assert_eq!(own, Ok(()));
    }

    #[actix_rt::test]
    async fn every_state_of_a_module_has_its_own_answer() {
        let registry = registry();
        let find = || registry.send(FindSocket(name("a")));

        assert_eq!(find().await.unwrap(), Err(NoSocket::Unknown));
        live(&registry, "a", 1, Life::Living).await;
        assert_eq!(find().await.unwrap(), Err(NoSocket::NotRegistered));
        register(&registry, "a", 1, "/run/s").await.unwrap();
        assert!(find().await.unwrap().is_ok());
        live(&registry, "a", 1, Life::Stopping).await;
        assert_eq!(find().await.unwrap(), Err(NoSocket::Stopping));
        live(&registry, "a", 1, Life::Down("waits".to_owned())).await;
        assert_eq!(find().await.unwrap(), Err(NoSocket::Down("waits".to_owned())));
        live(&registry, "a", 1, Life::Removed).await;
        assert_eq!(find().await.unwrap(), Err(NoSocket::Unknown));
    }
}
