//! Names of processor architectures.

/// The name that Go, and so every MIG tool, has for the architecture that this program was built for.
#[must_use]
pub fn architecture() -> &'static str {
    go_name(std::env::consts::ARCH, cfg!(target_endian = "little"))
}

fn go_name(rust_name: &str, little_endian: bool) -> &str {
    match (rust_name, little_endian) {
        ("x86_64", _) => "amd64",
        ("x86", _) => "386",
        ("aarch64", _) => "arm64",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        ("mips", true) => "mipsle",
        ("mips64", true) => "mips64le",
        ("loongarch64", _) => "loong64",
        (other, _) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architectures_have_gos_names() {
        assert_eq!(go_name("x86_64", true), "amd64");
        assert_eq!(go_name("aarch64", true), "arm64");
        assert_eq!(go_name("powerpc64", true), "ppc64le");
        assert_eq!(go_name("riscv64", true), "riscv64");
    }
}
