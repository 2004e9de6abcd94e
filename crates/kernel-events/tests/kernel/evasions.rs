//! Ways to run or connect that others have been blind to, each done here and found in the records.

use super::*;

/// Connects by io_uring: as it comes, then by a worker of the kernel.
const IO_URING: &str = r#"
#include <arpa/inet.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int count, char **words) {
  struct io_uring_params p; memset(&p, 0, sizeof p);
  int ring = syscall(__NR_io_uring_setup, 4, &p);
  if (ring < 0 || count != 2) return 77;
  char *sq = mmap(0, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
  struct io_uring_sqe *sqes = mmap(0, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
  if (sq == MAP_FAILED || sqes == MAP_FAILED) return 77;
  for (unsigned async = 0; async < 2; async++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(&sqes[async], 0, sizeof *sqes);
    sqes[async].opcode = IORING_OP_CONNECT;
    sqes[async].flags = async ? IOSQE_ASYNC : 0;
    sqes[async].fd = fd;
    sqes[async].addr = (unsigned long)&to;
    sqes[async].off = sizeof to;
    ((unsigned *)(sq + p.sq_off.array))[async] = async;
    __atomic_store_n((unsigned *)(sq + p.sq_off.tail), async + 1, __ATOMIC_RELEASE);
    /* What was completed is not taken from the ring. */
    if (syscall(__NR_io_uring_enter, ring, 1, async + 1, IORING_ENTER_GETEVENTS, 0, 0) != 1) return 77;
  }
  return 0;
}
"#;

#[test]
fn connections_by_io_uring_are_told_with_who_made_them() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = compiled(dir.path(), "ring", IO_URING) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();

    let mut child = Command::new(program).arg(port.to_string()).spawn().unwrap();
    let pid = child.id();
    if child.wait().unwrap().code() == Some(77) {
        return skip("this kernel gives no io_uring").unwrap_or(());
    }

    let end = watch.exit_of(pid);
    let connecting = |event: &&Event| match event {
        Event::Net(net) => net.state == NetState::Connecting && net.remote_port == port,
        _ => false,
    };
    let made: Vec<Option<u32>> = watch
        .seen
        .iter()
        .filter(connecting)
        .map(|event| match event {
            Event::Net(net) => net.who.as_ref().map(|who| who.pid),
            _ => None,
        })
        .collect();
    assert_eq!((made, end.status.code()), (vec![Some(pid), Some(pid)], Some(0)));
}

#[test]
fn a_file_that_is_run_by_its_descriptor_is_named_by_its_path() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("tool");
    vigie_skipped::copy_program("/bin/true", &program);

    let code = format!(
        "import os\nos.execve(os.open({:?},os.O_RDONLY),['sshd'],{{}})",
        program.display().to_string()
    );
    let pid = run(&mut python(&code));

    let exec = watch.exec_where(|exec| exec.who.pid == pid && exec.by_descriptor);
    assert_eq!(exec.path, program.as_os_str().as_encoded_bytes());
    assert!(exec.filename.starts_with(b"/dev/fd/"), "{:?}", String::from_utf8_lossy(&exec.filename));
    assert_eq!(exec.file.inode, fs::metadata(&program).unwrap().ino());
}

#[test]
fn a_child_of_vfork_has_its_maker() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let code = "#include <unistd.h>\n#include <sys/wait.h>\n\
                int main(void){pid_t c=vfork();if(!c){execl(\"/bin/true\",\"by vfork\",(char*)0);_exit(1);}waitpid(c,0,0);return 0;}";
    let Some(program) = compiled(dir.path(), "vforks", code) else { return };

    let pid = run(&mut Command::new(program));

    let maker = watch.exec_of(pid);
    let exec = watch.exec_where(|exec| exec.arguments.iter().next() == Some(b"by vfork"));
    assert_eq!((exec.who.parent, exec.who.maker), (pid, pid));
    assert_eq!((exec.who.parent_start, exec.who.maker_start), (maker.who.start, maker.who.start));
}

#[test]
fn a_program_that_is_mounted_over_another_one_elsewhere_is_told_with_its_own_file() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    vigie_skipped::copy_program("/bin/echo", &other);
    let script = "mount --bind \"$0\" /usr/bin/env && exec /usr/bin/env 'from elsewhere'";

    let status = Command::new("unshare").args(["-Urm", "sh", "-c", script]).arg(&other).output();
    if !status.is_ok_and(|output| output.status.success()) {
        return skip("no namespaces of users").unwrap_or(());
    }

    let exec = watch.exec_where(|exec| exec.arguments.iter().nth(1) == Some(b"from elsewhere"));
    let own = vigie_kernel_events::proc::read(std::process::id(), 0).expect("this process");
    assert_eq!(exec.path, b"/usr/bin/env");
    assert_eq!(exec.file.inode, fs::metadata(&other).unwrap().ino());
    assert_ne!(exec.file.inode, fs::metadata("/usr/bin/env").unwrap().ino());
    assert_ne!(exec.who.namespaces.mnt, own.who.namespaces.mnt);
}

#[test]
fn a_handler_of_binfmt_misc_is_told_with_the_file_that_was_asked_for() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    fs::write(&data, "vigie-test-magic\n").unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    // In a namespace of users of its own the handlers are its own (kernel 6.7).
    let script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && \
                  echo ':vigietest:M::vigie-test-magic::/bin/echo:' > /proc/sys/fs/binfmt_misc/register && \"$0\" handled";

    let output = Command::new("unshare").args(["-Urm", "sh", "-c", script]).arg(&data).output();
    if !output.as_ref().is_ok_and(|output| output.status.success()) {
        return skip(&format!("no binfmt_misc in a namespace: {output:?}")).unwrap_or(());
    }

    let exec = watch.exec_where(|exec| exec.arguments.iter().nth(2) == Some(b"handled"));
    assert_eq!(exec.filename, data.as_os_str().as_encoded_bytes());
    assert_eq!(exec.path, fs::canonicalize("/bin/echo").unwrap().as_os_str().as_encoded_bytes());
    assert_eq!(exec.arguments.iter().nth(1), Some(data.as_os_str().as_encoded_bytes()));
}

#[test]
fn arguments_that_a_process_rewrites_afterwards_stay_those_of_the_exec() {
    let Some(mut watch) = Watch::bpf() else { return };
    let code = "#include <string.h>\n#include <unistd.h>\n\
                int main(int n,char**v){memset(v[0],0,strlen(v[0]));strcpy(v[1],\"forged\");write(1,\"x\",1);char c;return read(0,&c,1)<0;}";
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = compiled(dir.path(), "rewrites", code) else { return };
    let mut child = Command::new(&program)
        .arg("the truth")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut done).unwrap();

    let now = fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
    let exec = watch.exec_of(child.id());
    drop(child.stdin.take());
    child.wait().unwrap();

    assert!(now.windows(6).any(|part| part == b"forged"), "{:?}", String::from_utf8_lossy(&now));
    assert_eq!(exec.arguments.iter().nth(1), Some(&b"the truth"[..]));
}

/// The directory of a control group of this process in the hierarchy that `of` picks from `/proc/self/cgroup`.
fn own_cgroup(mount: &str, of: impl Fn(&str) -> Option<&str>) -> Option<std::path::PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let point = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let is_it = match mount {
            "cgroup2" => words.get(2) == Some(&"cgroup2"),
            controller => {
                words.get(2) == Some(&"cgroup") && words.get(3)?.split(',').any(|one| one == controller)
            }
        };
        is_it.then(|| words[1].to_owned())
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(of)?.to_owned();
    Some(Path::new(&point).join(path.trim_start_matches('/')))
}

#[test]
fn control_groups_of_both_versions_are_those_of_the_process() {
    let Some(mut watch) = Watch::bpf() else { return };
    let second = own_cgroup("cgroup2", |line| line.strip_prefix("0::"));
    let first = own_cgroup("pids", |line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|one| one == "pids").then_some(path)
    });
    let number = |path: &Path| fs::metadata(path).ok().map(|directory| directory.ino());
    let second = second.as_deref().and_then(number);
    let first = first.as_deref().and_then(number);
    if first.is_none() && second.is_none() {
        return skip("no control groups are mounted").unwrap_or(());
    }

    let pid = run(&mut Command::new("/bin/true"));

    let exec = watch.exec_of(pid);
    if let Some(second) = second {
        assert_eq!(exec.who.cgroup_v2, second);
    }
    // On a hybrid host the second version has everything in one group; the first one's tells.
    assert_eq!(Some(exec.who.cgroup), first.or(second));
}
