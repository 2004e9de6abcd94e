//! Compiles the BPF programs where clang is there. Without it the crate works with the other sources, and says so.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=VIGIE_CLANG");
    println!("cargo:rustc-check-cfg=cfg(bpf_program)");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        absent("it was built without the feature bpf");
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let both = compile(&out.join("direct.bpf.o"), &["-DDIRECT"])
        .and_then(|()| compile(&out.join("probing.bpf.o"), &[]));
    match both {
        Ok(()) => println!("cargo:rustc-cfg=bpf_program"),
        Err(why) => {
            println!("cargo:warning=without BPF: {why}");
            absent(&why);
        }
    }
}

fn absent(why: &str) {
    println!("cargo:rustc-env=VIGIE_NO_BPF_PROGRAM={}", why.replace('\n', " "));
}

fn compile(object: &Path, flags: &[&str]) -> Result<(), String> {
    let clang = env::var("VIGIE_CLANG").unwrap_or_else(|_| "clang".to_owned());
    let architecture = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => "-D__TARGET_ARCH_x86",
        Ok("aarch64") => "-D__TARGET_ARCH_arm64",
        other => return Err(format!("the BPF programs were never tried on {other:?}")),
    };
    let output = Command::new(&clang)
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v2", "-Wall", "-Wno-unused-function", architecture])
        .args(flags)
        .args(["-fno-ident", "-ffile-prefix-map=bpf=.", "-c", "bpf/events.bpf.c", "-o"])
        .arg(object)
        .output()
        .map_err(|error| format!("clang was not available at build time ({clang}: {error})"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.contains("error")).unwrap_or("it says nothing");
        return Err(format!("clang could not compile the programs: {line}"));
    }
    // Nobody reads the debug information in a shipped program; the types (BTF) stay. Without llvm-strip it is larger.
    drop(Command::new("llvm-strip").arg("-g").arg(object).status());
    Ok(())
}
