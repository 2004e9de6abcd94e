//! Trees of files for the measurements, the same ones at every run.
//!
//! The shape is that of a host's files: sizes are log-normal, so that most files are small and a few large ones
//! hold most of the bytes. Names, sizes and contents follow from a fixed seed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use vigie_benchmark::BenchResult;

/// What all sizes and contents follow from.
const SEED: u64 = 3;

/// Mean and standard deviation of the logarithm of a file's size in bytes: half of the files have at most
/// e^8.5 = 4,915 bytes, and the mean is near 36,000.
const SIZE_LOGARITHM: (f64, f64) = (8.5, 2.0);

/// Largest file, in bytes.
const LARGEST: usize = 64 << 20;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(crate) struct Random(u64);

impl Random {
    /// Numbers that follow from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; the bias is far below what sizes and offsets show.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// A number above 0 and up to 1.
    fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// A number of the standard normal distribution, by Box and Muller's method.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.fraction().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }
}

/// How large the files are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FileSize {
    /// As on a host.
    LogNormal,
    /// All alike, in bytes.
    Bytes(usize),
}

/// What a tree looks like: directories in two levels, files in the lower one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Directories of the upper level.
    pub(crate) parents: usize,
    /// Directories in each of these.
    pub(crate) children: usize,
    /// Files, spread evenly.
    pub(crate) files: usize,
    /// Their sizes.
    pub(crate) size: FileSize,
}

/// A tree on the disk; dropped, it is removed.
pub(crate) struct Tree {
    root: PathBuf,
    files: usize,
}

impl Tree {
    /// Makes a tree in a directory that is not there yet.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(crate) fn make(root: PathBuf, shape: Shape) -> BenchResult<Self> {
        fs::create_dir_all(&root)?;
        let tree = Self { root, files: shape.files };
        for parent in 0..shape.parents {
            for child in 0..shape.children {
                fs::create_dir_all(tree.root.join(directory_name(parent, child)))?;
            }
        }
        if shape.files > 0 {
            tree.fill(shape)?;
        }
        Ok(tree)
    }

    fn fill(&self, shape: Shape) -> BenchResult<()> {
        let mut sizes = Random::new(SEED);
        let mut contents = Random::new(SEED + 1);
        let largest = match shape.size {
            FileSize::LogNormal => LARGEST,
            FileSize::Bytes(bytes) => bytes,
        };
        // Every content is a piece of it that begins somewhere and goes on at its start.
        let pool: Vec<u8> = (0..largest.div_ceil(8)).flat_map(|_| contents.next().to_le_bytes()).collect();
        let mut pieces = Vec::with_capacity(shape.files);
        for _ in 0..shape.files {
            let size = match shape.size {
                FileSize::LogNormal => log_normal_size(&mut sizes),
                FileSize::Bytes(bytes) => bytes,
            };
            pieces.push((size, contents.below(pool.len())));
        }
        // One directory after the other, on all threads: a million files in the order of their numbers would take
        // minutes.
        let leaves = shape.parents * shape.children;
        let next = AtomicUsize::new(0);
        let work = || -> std::io::Result<()> {
            loop {
                let leaf = next.fetch_add(1, Ordering::Relaxed);
                if leaf >= leaves {
                    return Ok(());
                }
                let directory = self.root.join(directory_name(leaf / shape.children, leaf % shape.children));
                for number in (leaf..shape.files).step_by(leaves) {
                    let (size, offset) = pieces[number];
                    write_piece(&directory.join(format!("f{number:06}.dat")), number, size, &pool, offset)?;
                }
            }
        };
        Ok(on_all_threads(&work)?)
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// How many files it has.
    pub(crate) fn files(&self) -> usize {
        self.files
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What cannot be removed goes with the directory of the run, or is seen there.
        let Ok(parents) = fs::read_dir(&self.root) else { return };
        let parents: Vec<PathBuf> = parents.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let next = AtomicUsize::new(0);
        let work = || -> std::io::Result<()> {
            while let Some(parent) = parents.get(next.fetch_add(1, Ordering::Relaxed)) {
                fs::remove_dir_all(parent)?;
            }
            Ok(())
        };
        on_all_threads(&work).and_then(|()| fs::remove_dir_all(&self.root)).ok();
    }
}

/// Writes a file whose content is its number and a piece of the pool.
fn write_piece(path: &Path, number: usize, size: usize, pool: &[u8], offset: usize) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    // The number makes each content another one.
    let head = (number as u64).to_le_bytes();
    let head = &head[..size.min(head.len())];
    let rest = size - head.len();
    let first = rest.min(pool.len() - offset);
    if size < 4096 {
        return file.write_all(&[head, &pool[offset..offset + first], &pool[..rest - first]].concat());
    }
    file.write_all(head)?;
    file.write_all(&pool[offset..offset + first])?;
    file.write_all(&pool[..rest - first])
}

/// Does the same on as many threads as there are processors, and waits for all.
fn on_all_threads(work: &(impl Fn() -> std::io::Result<()> + Sync)) -> std::io::Result<()> {
    let count = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
    })
}

fn directory_name(parent: usize, child: usize) -> String {
    format!("d{parent:03}/e{child:03}")
}

fn log_normal_size(random: &mut Random) -> usize {
    let (mean, deviation) = SIZE_LOGARITHM;
    let size = (mean + deviation * random.normal()).exp().round();
    (size as usize).min(LARGEST)
}
