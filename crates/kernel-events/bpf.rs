//! Loads the BPF programs and reads their ring.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libbpf_rs::query::ProgInfoIter;
use libbpf_rs::{
    Link, MapCore as _, MapFlags, Object, ObjectBuilder, Program, RingBuffer, RingBufferBuilder,
};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::counters::{Counters, KINDS, Kind};
use crate::event::Event;
use crate::record;
use crate::source::{Options, SourceError};

/// The compiled programs, aligned as an ELF file wants to be.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// The programs that read the kernel's memory by loads (see `bpf/kernel.h`).
static DIRECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/direct.bpf.o")));

/// The same that read by a helper, for kernels that refuse those.
static PROBING: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/probing.bpf.o")));

/// Records that are read before they are handed on: the bound of what waits in memory.
const BATCH: usize = 128;

/// Bytes of the smallest record with its head in the ring.
const SMALLEST: usize = 80;

/// What the ring's callback leaves behind.
#[derive(Debug, Default)]
struct Read {
    events: Vec<Event>,
    /// Records that had not the form that they should have.
    strange: u64,
}

/// Between the ring's callback and the reader: the same thread at any moment, but not always the same one.
type Shared = Arc<Mutex<Read>>;

fn locked(read: &Shared) -> MutexGuard<'_, Read> {
    read.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What each program is there for.
const TOLD_BY: [(&str, Kind); 4] =
    [("on_exec", Kind::Exec), ("on_exit", Kind::Exit), ("on_state", Kind::Net), ("on_fork", Kind::Fork)];

/// Whether a program is needed for what is wanted: one that is not costs the host nothing.
fn is_wanted(name: &str, options: &Options) -> bool {
    TOLD_BY.iter().any(|(program, kind)| *program == name && options.kinds.contains(kind))
}

/// Running programs and their ring. Everything ends when it is dropped.
pub(crate) struct BpfSource {
    ring: RingBuffer<'static>,
    read: Shared,
    object: Object,
    /// Programs run as long as their links live.
    _links: Vec<Link>,
    program_ids: Vec<u32>,
    ring_bytes: usize,
    /// Tells when the programs wake the reader, and not whenever something is there: that would undo the watermark.
    wakeups: OwnedFd,
}

impl std::fmt::Debug for BpfSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BpfSource").field("program_ids", &self.program_ids).finish_non_exhaustive()
    }
}

/// See [`crate::bpf_programs`].
pub(crate) fn programs() -> Option<std::collections::BTreeMap<u32, String>> {
    let text = |program: libbpf_rs::query::ProgramInfo| {
        let name = program.name.to_string_lossy().into_owned();
        (program.id, format!("{name} of kind {:?} by user {}", program.ty, program.created_by_uid))
    };
    let all: std::collections::BTreeMap<u32, String> = ProgInfoIter::default().map(text).collect();
    // Whoever may list them has loaded some himself.
    (!all.is_empty()).then_some(all)
}

fn failed(what: &'static str) -> impl Fn(libbpf_rs::Error) -> SourceError {
    move |error| SourceError::Bpf { what, why: error.to_string() }
}

/// The kernel wants a power of two.
fn ring_bytes(options: &Options) -> u32 {
    options.ring_bytes.next_power_of_two().max(64 * 1024)
}

fn load(programs: &'static Aligned<[u8]>, options: &Options) -> Result<Object, SourceError> {
    let mut open = ObjectBuilder::default().open_memory(&programs.0).map_err(failed("be read"))?;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == "ring" {
            map.set_max_entries(ring_bytes(options)).map_err(failed("have their ring"))?;
        } else if name.ends_with(".rodata")
            && let Some(value) = map.initial_value_mut()
        {
            // In the order in which events.bpf.c has them.
            let settings = [
                options.wanted_bits(),
                options.wake_bytes,
                options.argument_bytes,
                options.environment_bytes,
                crate::proc::host_net_namespace().unwrap_or(0),
            ];
            for (place, setting) in value.chunks_exact_mut(4).zip(settings) {
                place.copy_from_slice(&setting.to_ne_bytes());
            }
        }
    }
    for mut program in open.progs_mut() {
        let wanted = is_wanted(&program.name().to_string_lossy(), options);
        program.set_autoload(wanted);
    }
    open.load().map_err(failed("be loaded"))
}

impl BpfSource {
    pub(crate) fn open(options: &Options) -> Result<Self, SourceError> {
        // What libbpf would print belongs into the error alone.
        libbpf_rs::set_print(None);
        let object = load(DIRECT, options).or_else(|_| load(PROBING, options))?;
        // What libbpf needed to know of the kernel: before the ring takes its own.
        vigie_memory::give_back_heap();
        let mut links = Vec::new();
        let mut program_ids = Vec::new();
        for program in object.progs_mut() {
            if !is_wanted(&program.name().to_string_lossy(), options) {
                continue;
            }
            program_ids.push(Program::id_from_fd(program.as_fd()).map_err(failed("be numbered"))?);
            links.push(program.attach().map_err(failed("be attached"))?);
        }
        let read = Shared::default();
        let ring = {
            let read = Arc::clone(&read);
            let map = object
                .maps()
                .find(|map| map.name() == "ring")
                .ok_or(SourceError::Bpf { what: "have their ring", why: "it is not there".to_owned() })?;
            let mut builder = RingBufferBuilder::new();
            builder
                .add(&map, move |bytes| {
                    let mut read = locked(&read);
                    match record::parse(bytes) {
                        Some(event) => read.events.push(event),
                        None => read.strange += 1,
                    }
                    0
                })
                .map_err(failed("have their ring"))?;
            builder.build().map_err(failed("have their ring"))?
        };
        let wakeups = {
            let map = object.maps().find(|map| map.name() == "ring");
            let map =
                map.ok_or(SourceError::Bpf { what: "have their ring", why: "it is gone".to_owned() })?;
            let io = |error: Errno| SourceError::Bpf { what: "be waited for", why: error.to_string() };
            let wakeups = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io)?;
            let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&wakeups, map.as_fd(), epoll::EventData::new_u64(0), edge).map_err(io)?;
            wakeups
        };
        Ok(Self {
            wakeups,
            ring,
            read,
            object,
            _links: links,
            program_ids,
            ring_bytes: ring_bytes(options) as usize,
        })
    }

    /// Waits until there is much to read, or for this long; then hands on what there is.
    pub(crate) fn wait(&mut self, timeout: Duration, sink: &mut dyn FnMut(Event)) -> Result<(), SourceError> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        let mut woken = Vec::with_capacity(1);
        // A signal is no error, and what is there is read below in any case.
        let _ = epoll::wait(&self.wakeups, spare_capacity(&mut woken), Some(&timeout));
        self.drain(sink)
    }

    /// Readable once much waits, until [`BpfSource::wait`] has been told so.
    pub(crate) fn wakeups(&self) -> BorrowedFd<'_> {
        self.wakeups.as_fd()
    }

    /// Hands on what is there now; what comes meanwhile as well, but no more than a full ring: who writes faster than
    /// this is read must not keep the reader from his other work.
    pub(crate) fn drain(&mut self, sink: &mut dyn FnMut(Event)) -> Result<(), SourceError> {
        for _ in 0..=self.ring_bytes / SMALLEST / BATCH {
            let taken = self.ring.consume_raw_n(BATCH);
            let events = std::mem::take(&mut locked(&self.read).events);
            for event in events {
                sink(event);
            }
            if taken < 0 {
                let why = std::io::Error::from_raw_os_error(-taken).to_string();
                return Err(SourceError::Bpf { what: "be read from", why });
            }
            if (taken as usize) < BATCH {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> Result<Counters, SourceError> {
        let mut counters = Counters { not_understood: locked(&self.read).strange, ..Counters::default() };
        let map = self.object.maps().find(|map| map.name() == "counts");
        let values = match map {
            Some(map) => {
                map.lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(failed("be counted"))?
            }
            None => None,
        };
        for value in values.unwrap_or_default() {
            let numbers: Vec<u64> = value
                .chunks_exact(8)
                .filter_map(|bytes| bytes.try_into().ok().map(u64::from_ne_bytes))
                .collect();
            for kind in 0..KINDS {
                counters.sent[kind] += numbers.get(kind).copied().unwrap_or(0);
                counters.lost_of_trusted[kind] += numbers.get(KINDS + kind).copied().unwrap_or(0);
                counters.lost_of_others[kind] += numbers.get(2 * KINDS + kind).copied().unwrap_or(0);
            }
        }
        counters.recursion_misses = ProgInfoIter::default()
            .filter(|program| self.program_ids.contains(&program.id))
            .map(|program| program.recursion_misses)
            .sum();
        Ok(counters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the kernel has the helper that the loads begin from, which came with 5.11.
    fn takes_loads() -> bool {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        (numbers.next(), numbers.next()) >= (Some(5), Some(11))
    }

    #[test]
    fn the_kernel_takes_the_programs_in_both_forms() {
        let options = Options::default();
        libbpf_rs::set_print(None);
        if let Err(error) = load(PROBING, &options) {
            vigie_skipped::without_bpf(error);
            return;
        }

        assert_eq!(load(DIRECT, &options).is_ok(), takes_loads());
    }
}
