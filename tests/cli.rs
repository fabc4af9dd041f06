//! The real binary, as people run it: keys, nodes as processes, a job from end
//! to end, and what happens when something is wrong.

#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use beaverdam::program::{Builder, Program, Tensor, Type};

fn beaverdam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_beaverdam"));
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("BEAVERDAM_")) {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    beaverdam().args(args).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let out = run(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Exit code 2, one line on stderr, nothing on stdout.
fn refused(args: &[&str]) -> String {
    let out = run(args);
    let message = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{message}");
    assert!(out.stdout.is_empty(), "{args:?} printed something");
    message
}

fn linear() -> Program {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-8.0..=8.0), [2, 3]);
    let w = b.input("w", "alice", Type::fixed(-8.0..=8.0), [3]);
    let z = x.matmul(&w).declare("score", -64.0..=64.0);
    b.output("z", "alice", &z);
    b.output("positive", "bob", &z.ge0());
    b.finish().unwrap()
}

/// A directory with keys, a program, data, and nodes that end with it.
struct Scene {
    directory: tempfile::TempDir,
    nodes: Vec<Option<Child>>,
    keys: Vec<String>,
}

impl Scene {
    fn new(nodes: usize) -> Self {
        Self::with(nodes, &[])
    }

    /// A scene whose nodes have more in their environment.
    fn with(nodes: usize, env: &[(&str, &str)]) -> Self {
        let mut scene = Self { directory: tempfile::tempdir().unwrap(), nodes: Vec::new(), keys: Vec::new() };
        let owner = scene.keygen("owner");
        scene.keygen("bob");
        let mut addresses = Vec::new();
        for i in 1..=nodes {
            let name = format!("node{i}");
            let key = scene.keygen(&name);
            // Half of them by flags, half by the environment alone.
            let mut command = beaverdam();
            let (key_file, store) = (scene.path(&format!("{name}.key")), scene.path(&format!("{name}.store")));
            if i % 2 == 0 {
                command.args(["node", "--listen", "127.0.0.1:0", "--allow-owner", &owner, "--log", "warn"]);
                command.arg("--key").arg(key_file).arg("--store").arg(store);
            } else {
                let allowed = format!("{key},{owner}");
                command.arg("node").env("BEAVERDAM_LISTEN", "127.0.0.1:0").env("BEAVERDAM_ALLOW_OWNER", allowed);
                command.env("BEAVERDAM_KEY", key_file).env("BEAVERDAM_STORE", store).env("BEAVERDAM_LOG", "warn");
            }
            let mut child = command.envs(env.iter().copied()).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            scene.nodes.push(Some(child));
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!((words[0], words[1], words[3], words[4]), ("listening", "on", "as", &key[..]), "{line}");
            addresses.push(words[2].to_owned());
            scene.keys.push(key);
        }
        scene.write("roster.toml", scene.roster(&addresses));
        linear().save(scene.path("linear.program")).unwrap();
        scene.write("x.csv", "a,b,c\n1,2,3\n-4,-5.5,6\n");
        scene.write("w.csv", "0.5\n-1.25\n2\n");
        scene
    }

    fn roster(&self, addresses: &[String]) -> String {
        let node = |(key, address): (&String, &String)| format!("[[node]]\nkey = {key:?}\naddress = {address:?}\n");
        let nodes: String = self.keys.iter().zip(addresses).map(node).collect();
        format!("scheme = \"shamir\"\nthreshold = 1\n{nodes}")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn keygen(&self, name: &str) -> String {
        let file = self.at(&format!("{name}.key"));
        let key = ok(&["keygen", "--out", &file]).trim().to_owned();
        assert_eq!(ok(&["key", &file]).trim(), key);
        key
    }

    /// Arguments of a submission; `change` swaps single ones.
    fn submit(&self, change: &[(&str, &str)]) -> Vec<String> {
        let mut values = vec![
            ("--program", self.at("linear.program")),
            ("--roster", self.at("roster.toml")),
            ("--key", self.at("owner.key")),
            ("--input", format!("x={}", self.at("x.csv"))),
            ("--input", format!("w={}", self.at("w.csv"))),
            ("--reader", format!("bob={}", ok(&["key", &self.at("bob.key")]).trim())),
            ("--ticket", self.at("job.ticket")),
        ];
        for (flag, value) in change {
            values.iter_mut().find(|(f, _)| f == flag).unwrap().1 = (*value).to_owned();
        }
        let flags = values.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        std::iter::once("submit".to_owned()).chain(flags).collect()
    }

    fn job(&self, command: &str, key: &str) -> Vec<String> {
        let file = |name| self.at(name);
        [command, "--ticket", &file("job.ticket"), "--roster", &file("roster.toml"), "--key", &file(key)]
            .map(str::to_owned)
            .into()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn numbers(csv: &str) -> Vec<f64> {
    csv.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

#[test]
fn a_job_from_keygen_to_verify() {
    let mut scene = Scene::new(4);
    let plan = ok(&["plan", &scene.at("linear.program"), "--scheme", "shamir", "--nodes", "4", "--threshold", "1"]);
    for words in ["given by alice", "read by bob", "score", "rounds of openings", "predicted, not measured"] {
        assert!(plan.contains(words), "{words} is not in\n{plan}");
    }

    let out = scene.at("results");
    let submitted = ok(&strs(&[scene.submit(&[]), vec!["--wait".into(), "--out".into(), out]].concat()));
    assert!(submitted.contains("threshold attestation, not a proof"), "{submitted}");
    let z = numbers(&scene.read("results/z.csv"));
    assert!((z[0] - 4.0).abs() < 1e-3 && (z[1] - 16.875).abs() < 1e-3, "{z:?}");
    assert!(!scene.path("results/positive.csv").exists(), "it is bob's");

    // The reader fetches with a key and a ticket of its own.
    let fetch = [scene.job("fetch", "bob.key"), vec!["--out".into(), scene.at("bob")]].concat();
    ok(&strs(&fetch));
    assert_eq!(scene.read("bob/positive.csv"), "1\n1\n");
    assert!(!scene.path("bob/z.csv").exists());
    // Results are not overwritten.
    assert!(refused(&strs(&fetch)).contains("positive.csv exists already"));

    let verified = ok(&strs(&scene.job("verify", "owner.key")));
    assert!(verified.contains("1 of 2 are for this key") && verified.contains("all 4 nodes signed"), "{verified}");
    let transcript = |text: &str| text.lines().find(|l| l.starts_with("transcript ")).unwrap().to_owned();
    assert_eq!(transcript(&verified), transcript(&submitted));

    // Owner and reader see it at every node.
    for key in ["owner.key", "bob.key"] {
        let jobs = ok(&["jobs", "--roster", &scene.at("roster.toml"), "--key", &scene.at(key)]);
        assert_eq!(jobs.matches("is done").count(), 4, "{jobs}");
    }

    // Only its owner may cancel a job, and only while it runs.
    assert!(refused(&strs(&scene.job("cancel", "bob.key"))).contains("refuses"));
    assert!(refused(&strs(&scene.job("cancel", "owner.key"))).contains("the job is over"));

    // Another program's ticket, and a ticket whose program was exchanged.
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-8.0..=8.0), [2, 3]);
    b.output("z", "alice", &(&x * &x));
    let other = b.finish().unwrap();
    other.save(scene.path("other.program")).unwrap();
    let wrong = [scene.job("verify", "owner.key"), vec!["--program".into(), scene.at("other.program")]].concat();
    assert!(refused(&strs(&wrong)).contains("the ticket is for program"));
    let good = std::fs::read(scene.path("job.ticket")).unwrap();
    let program = linear().to_bytes();
    let at = good.len() - program.len() - varint(program.len()).len();
    assert_eq!(good[at..], [varint(program.len()), program].concat());
    let spliced = [&good[..at], &varint(other.to_bytes().len()), &other.to_bytes()].concat();
    scene.write("job.ticket", spliced);
    let message = refused(&strs(&scene.job("fetch", "owner.key")));
    assert!(message.contains("program"), "{message}");
    scene.write("job.ticket", &good[..good.len() / 2]);
    assert!(refused(&strs(&scene.job("fetch", "owner.key"))).contains("ticket"));
    scene.write("job.ticket", &good);

    // A stranger's key opens nothing.
    scene.keygen("mallory");
    let message = refused(&strs(&scene.job("fetch", "mallory.key")));
    assert!(message.contains("node 1") || message.contains("refuses"), "{message}");

    let jobs = ok(&["jobs", "--roster", &scene.at("roster.toml"), "--key", &scene.at("mallory.key")]);
    assert_eq!(jobs.matches("no jobs of this key").count(), 4, "{jobs}");

    // Nor does it get a job from nodes that serve others.
    let (mallory, ticket) = (scene.at("mallory.key"), scene.at("second.ticket"));
    let message = refused(&strs(&scene.submit(&[("--key", &mallory), ("--ticket", &ticket)])));
    assert!(message.contains("refuses"), "{message}");
    assert!(!scene.path("second.ticket").exists());

    // A node that is down: nothing is submitted, and the ticket is not left behind.
    let mut down = scene.nodes[2].take().unwrap();
    down.kill().unwrap();
    down.wait().unwrap();
    let message = refused(&strs(&scene.submit(&[("--ticket", &ticket)])));
    assert!(message.contains("node 3"), "{message}");
    assert!(!scene.path("second.ticket").exists());
}

/// What a node tells anybody.
fn health(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A program with its input whose job cannot be over before a node is killed.
fn long(scene: &Scene) {
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [20_000]);
    let square = |_: &Builder, s: &[Tensor]| (vec![(&s[0] * &s[0]).declare("square", -1.0..=1.0)], vec![]);
    let (ends, _) = b.repeat(100, std::slice::from_ref(&x), square);
    b.output("z", "alice", &ends[0]);
    b.finish().unwrap().save(scene.path("long.program")).unwrap();
    scene.write("long.csv", "0.5\n".repeat(20_000));
}

#[test]
fn a_node_that_is_killed_and_does_not_come_back_ends_the_job_and_nothing_is_revealed() {
    let mut scene = Scene::with(4, &[("BEAVERDAM_DEADLINE", "10"), ("BEAVERDAM_PATIENCE", "10")]);
    long(&scene);
    let (program, input) = (scene.at("long.program"), format!("x={}", scene.at("long.csv")));
    let file = |name| scene.at(name);
    let mut owner = beaverdam()
        .args(["submit", "--program", &program, "--input", &input, "--roster", &file("roster.toml")])
        .args(["--key", &file("owner.key"), "--ticket", &file("job.ticket"), "--wait", "--out", &file("results")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let roster = scene.read("roster.toml");
    let address = roster.lines().filter_map(|l| l.strip_prefix("address = ")).nth(2).unwrap().trim_matches('"');
    while !health(address).contains("\"jobs_running\":1") {
        assert!(owner.try_wait().unwrap().is_none(), "the job ended before the node was killed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut victim = scene.nodes[2].take().unwrap();
    victim.kill().unwrap(); // SIGKILL on Unix
    victim.wait().unwrap();

    let out = owner.wait_with_output().unwrap();
    let message = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{message}");
    assert!(message.starts_with("error: ") && message.trim_end().lines().count() == 1, "{message}");
    assert!(message.contains("node 3"), "{message}");
    assert!(!scene.path("results").exists());
    // The others have ended it too, and serve on.
    let others = roster.lines().filter_map(|l| l.strip_prefix("address = ")).enumerate().filter(|(i, _)| *i != 2);
    for (_, address) in others {
        while !health(address.trim_matches('"')).contains("\"jobs_running\":0,\"jobs_done\":0,\"jobs_failed\":1") {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_node_that_is_killed_and_started_again_finishes_its_job() {
    let mut scene = Scene::new(4);
    long(&scene);
    let file = |name| scene.at(name);
    let (program, input) = (file("long.program"), format!("x={}", file("long.csv")));
    ok(&[
        "submit",
        "--program",
        &program,
        "--input",
        &input,
        "--roster",
        &file("roster.toml"),
        "--key",
        &file("owner.key"),
        "--ticket",
        &file("job.ticket"),
    ]);
    let roster = scene.read("roster.toml");
    let address =
        roster.lines().filter_map(|l| l.strip_prefix("address = ")).nth(2).unwrap().trim_matches('"').to_owned();
    // The owner has left; the job goes on.
    assert!(health(&address).contains("\"jobs_running\":1"), "the job was over before the node was killed");
    let mut victim = scene.nodes[2].take().unwrap();
    victim.kill().unwrap(); // SIGKILL
    victim.wait().unwrap();
    let mut again = beaverdam();
    again.args(["node", "--listen", &address, "--allow-owner", ok(&["key", &scene.at("owner.key")]).trim()]);
    again.arg("--key").arg(scene.path("node3.key")).arg("--store").arg(scene.path("node3.store"));
    scene.nodes[2] = Some(again.args(["--log", "warn"]).stdout(Stdio::null()).spawn().unwrap());
    while TcpStream::connect(&address).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let fetch = [scene.job("fetch", "owner.key"), vec!["--wait".into(), "--out".into(), scene.at("results")]].concat();
    ok(&strs(&fetch));
    assert!(numbers(&scene.read("results/z.csv")).iter().all(|z| z.abs() < 0.01));
    let done = |address: &str| health(address).contains("\"jobs_done\":1,\"jobs_failed\":0");
    while !done(&address) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A long job on SPDZ, submitted to three nodes in so many attempts.
fn long_on_spdz(attempts: u32) -> Scene {
    let scene = Scene::new(3);
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [50]);
    let square = |_: &Builder, s: &[Tensor]| (vec![(&s[0] * &s[0]).declare("square", -1.0..=1.0)], vec![]);
    let (ends, _) = b.repeat(3000, std::slice::from_ref(&x), square);
    b.output("z", "alice", &(&ends[0] + &x));
    b.finish().unwrap().save(scene.path("long.program")).unwrap();
    scene.write("long.csv", "0.5\n".repeat(50));
    let roster = scene.read("roster.toml").replace("scheme = \"shamir\"\nthreshold = 1\n", "scheme = \"spdz\"\n");
    scene.write("roster.toml", &roster);
    let file = |name: &str| scene.at(name);
    let (program, input) = (file("long.program"), format!("x={}", file("long.csv")));
    let (key, ticket) = (file("owner.key"), file("job.ticket"));
    let submit = ["submit", "--program", &program, "--input", &input, "--roster", &file("roster.toml"), "--key", &key];
    let submitted = ok(&[&submit[..], &["--ticket", &ticket, "--attempts", &attempts.to_string()]].concat());
    assert!(submitted.contains(&format!("in up to {attempts} attempts")), "{submitted}");
    scene
}

/// SIGKILL, in the middle of a job, and a process on what is left on disk.
fn kill_and_start_again(scene: &mut Scene, node: usize) {
    let roster = scene.read("roster.toml");
    let address =
        roster.lines().filter_map(|l| l.strip_prefix("address = ")).nth(node).unwrap().trim_matches('"').to_owned();
    assert!(health(&address).contains("\"jobs_running\":1"), "the job was over before the node was killed");
    let mut victim = scene.nodes[node].take().unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mut again = beaverdam();
    again.args(["node", "--listen", &address, "--allow-owner", ok(&["key", &scene.at("owner.key")]).trim()]);
    let name = format!("node{}", node + 1);
    again.arg("--key").arg(scene.path(&format!("{name}.key"))).arg("--store").arg(scene.path(&format!("{name}.store")));
    scene.nodes[node] = Some(again.args(["--log", "warn"]).stdout(Stdio::null()).spawn().unwrap());
    while TcpStream::connect(&address).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// SPDZ cannot say again what it has said: it goes on with other material.
#[cfg(unix)]
#[test]
fn an_spdz_job_goes_on_in_another_attempt_when_a_node_is_killed() {
    let mut scene = long_on_spdz(3);
    kill_and_start_again(&mut scene, 2);
    let fetch = [scene.job("fetch", "owner.key"), vec!["--wait".into(), "--out".into(), scene.at("results")]].concat();
    ok(&strs(&fetch));
    let z = numbers(&scene.read("results/z.csv"));
    assert!(z.len() == 50 && z.iter().all(|z| (z - 0.5).abs() < 0.01), "{z:?}");
    // Under Shamir nobody would use the material.
    let plan = ["plan", &scene.at("long.program"), "--attempts", "2"];
    assert!(refused(&plan).contains("only SPDZ jobs go on with other material"));
    let planned = ok(&[&plan[..], &["--scheme", "spdz", "--nodes", "3"]].concat());
    assert!(planned.contains("in up to 2 attempts"), "{planned}");
}

/// Its last attempt ends with a process. It waits, also when another process is killed meanwhile, until the owner deals one more.
#[cfg(unix)]
#[test]
fn an_spdz_job_without_attempts_waits_until_its_owner_resumes_it() {
    let mut scene = long_on_spdz(2);
    let jobs = |scene: &Scene| ok(&["jobs", "--roster", &scene.at("roster.toml"), "--key", &scene.at("owner.key")]);
    let until_all = |scene: &Scene, say: &str| {
        while jobs(scene).matches(say).count() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    };
    let resume = |key: &str, more: &[&str]| {
        let more: Vec<String> = more.iter().map(|arg| (*arg).to_owned()).collect();
        [scene.job("resume", key), more].concat()
    };
    let (resume, too_many, strangers) =
        (resume("owner.key", &[]), resume("owner.key", &["--attempts", "254"]), resume("bob.key", &[]));
    kill_and_start_again(&mut scene, 2);
    until_all(&scene, "runs: round");
    kill_and_start_again(&mut scene, 1);
    until_all(&scene, "waits for its owner: a process was lost in the last of 2 attempts; run beaverdam resume");
    kill_and_start_again(&mut scene, 0);
    until_all(&scene, "waits for its owner");
    assert!(refused(&strs(&scene.job("fetch", "owner.key"))).contains("waits for its owner"));
    assert!(refused(&strs(&strangers)).contains("did not sign the job"));
    assert!(refused(&strs(&too_many)).contains("at most 255"));
    // One that is killed somewhere on its way.
    let mut cut = beaverdam().args(strs(&resume)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    cut.kill().unwrap();
    cut.wait().unwrap();
    let resumed = ok(&strs(&resume));
    assert!(resumed.contains("attempts at all 3 nodes"), "{resumed}");
    let fetch = [scene.job("fetch", "owner.key"), vec!["--wait".into(), "--out".into(), scene.at("results")]].concat();
    ok(&strs(&fetch));
    let z = numbers(&scene.read("results/z.csv"));
    assert!(z.len() == 50 && z.iter().all(|z| (z - 0.5).abs() < 0.01), "{z:?}");
    assert!(refused(&strs(&resume)).contains("the job is over"));
}

#[cfg(unix)]
#[test]
fn a_spare_takes_over_from_a_node_that_is_killed_for_good() {
    let mut scene = Scene::with(5, &[("BEAVERDAM_REPLACE_AFTER", "2"), ("BEAVERDAM_DEADLINE", "5")]);
    long(&scene);
    // The fifth is a spare.
    let roster = scene.read("roster.toml");
    let at = roster.rfind("[[node]]").unwrap();
    scene.write("roster.toml", format!("{}[[spare]]{}", &roster[..at], &roster[at + 8..]));
    let file = |name| scene.at(name);
    let input = format!("x={}", file("long.csv"));
    let submit = |openings: &str| -> Vec<String> {
        let (program, roster, key, ticket) =
            (file("long.program"), file("roster.toml"), file("owner.key"), file("job.ticket"));
        ["submit", "--program", &program, "--input", &input, "--roster", &roster, "--key", &key]
            .into_iter()
            .chain(["--ticket", &ticket, "--comparisons", "digits", "--openings", openings])
            .map(str::to_owned)
            .collect()
    };
    assert!(refused(&strs(&submit("king"))).contains("plan with --openings all-to-all"));
    let submitted = ok(&strs(&submit("all-to-all")));
    assert!(submitted.contains("at all 4 nodes\nand at 1 spare"), "{submitted}");
    let jobs = |scene: &Scene| ok(&["jobs", "--roster", &scene.at("roster.toml"), "--key", &scene.at("owner.key")]);
    let listed = jobs(&scene);
    assert_eq!(listed.matches("waits as a spare").count(), 1, "{listed}");
    let addresses: Vec<&str> =
        roster.lines().filter_map(|l| l.strip_prefix("address = ")).map(|a| a.trim_matches('"')).collect();
    assert!(health(addresses[2]).contains("\"jobs_running\":1"), "the job was over before the node was killed");
    let mut victim = scene.nodes[2].take().unwrap();
    victim.kill().unwrap(); // SIGKILL
    victim.wait().unwrap();
    let fetch = [scene.job("fetch", "owner.key"), vec!["--wait".into(), "--out".into(), scene.at("results")]].concat();
    ok(&strs(&fetch));
    assert!(numbers(&scene.read("results/z.csv")).iter().all(|z| z.abs() < 0.01));
    // All four slots needed it, so the spare has computed one to the end.
    while !health(addresses[4]).contains("\"jobs_running\":0,\"jobs_done\":1,\"jobs_failed\":0") {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let listed = jobs(&scene);
    assert_eq!(listed.matches("is done").count(), 4, "{listed}");
}

#[test]
fn a_running_job_moves_to_another_roster() {
    let scene = Scene::new(7);
    let b = Builder::new();
    let x = b.input("x", "alice", Type::fixed(-1.0..=1.0), [50]);
    let more = b.constant(&[0.3], Type::fixed(-1.0..=1.0), [50]);
    let (ends, _) = b.repeat(30_000, std::slice::from_ref(&x), |_, s| {
        (vec![(&(&s[0] * &x) + &more).declare("s", -1.0..=1.0)], vec![])
    });
    b.output("z", "alice", &ends[0]);
    b.finish().unwrap().save(scene.path("long.program")).unwrap();
    scene.write("long.csv", "0.5\n".repeat(50));
    // The first four begin, the other three go on.
    let all = scene.read("roster.toml");
    let (head, nodes) = all.split_at(all.find("[[node]]").unwrap());
    let fifth = nodes.match_indices("[[node]]").nth(4).unwrap().0;
    scene.write("roster.toml", format!("{head}{}", &nodes[..fifth]));
    scene.write("other.toml", format!("{head}{}", &nodes[fifth..]));
    let file = |name: &str| scene.at(name);
    let (program, input) = (file("long.program"), format!("x={}", file("long.csv")));
    let (key, ticket, roster) = (file("owner.key"), file("job.ticket"), file("roster.toml"));
    let submit = ["submit", "--program", &program, "--input", &input, "--roster", &roster, "--key", &key];
    ok(&[&submit[..], &["--ticket", &ticket, "--openings", "all-to-all"]].concat());
    let (other, rest) = (file("other.toml"), file("rest.ticket"));
    let moving = |key: &str| {
        let job = ["move", "--ticket", &ticket, "--roster", &roster, "--key", key];
        [&job[..], &["--to", &other, "--new-ticket", &rest]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(refused(&strs(&moving(&file("bob.key")))).contains("did not sign the job"));
    // Until enough nodes have the first checkpoint there is nothing to take.
    let told = loop {
        let out = run(&strs(&moving(&key)));
        if out.status.success() {
            break String::from_utf8(out.stdout).unwrap();
        }
        let message = String::from_utf8(out.stderr).unwrap();
        assert!(message.contains("the first after some seconds") && !Path::new(&rest).exists(), "{message}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    assert!(
        told.contains("at all 3 new nodes: it goes on behind iteration")
            && told.matches("says that it has ended the job").count() == 4,
        "{told}"
    );
    let listed = ok(&["jobs", "--roster", &roster, "--key", &key]);
    assert_eq!(listed.matches("failed: its owner cancelled the job").count(), 4, "{listed}");
    let fetch = ["fetch", "--ticket", &rest, "--roster", &other, "--key", &key, "--continues", &ticket];
    let told = ok(&[&fetch[..], &["--wait", "--out", &file("results")]].concat());
    assert!(told.contains("it goes on from job"), "{told}");
    let z = numbers(&scene.read("results/z.csv"));
    assert!(z.len() == 50 && z.iter().all(|z| (z - 0.6).abs() < 0.01), "{z:?}");
    assert!(refused(&strs(&moving(&key))).contains("rest.ticket exists already"));
}

/// How postcard writes a length.
fn varint(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

#[test]
fn bad_input_is_one_clear_line() {
    let scene = Scene::new(0);
    let node = |i: u8| format!("127.0.0.1:{}", 40_000 + u16::from(i));
    let keys: Vec<String> = (1..=4).map(|i| scene.keygen(&format!("n{i}"))).collect();
    let roster = |keys: &[&str]| {
        let nodes = (1..).zip(keys).map(|(i, key)| format!("[[node]]\nkey = {key:?}\naddress = {:?}\n", node(i)));
        format!("scheme = \"shamir\"\nthreshold = 1\n{}", nodes.collect::<String>())
    };
    scene.write("roster.toml", roster(&strs(&keys)));
    scene.write("repeated.toml", roster(&[&keys[0], &keys[1], &keys[2], &keys[1]]));
    scene.write("short.csv", "1,2,3\n");
    scene.write("text.csv", "1,2,3\n4,five,6\n");
    scene.write("empty.csv", "1,2,3\n4,,6\n");
    scene.write("large.csv", "1,2,3\n4,5,600\n");
    let submit = |flag: &str, value: &str| refused(&strs(&scene.submit(&[(flag, value)])));
    let x = |file: &str| format!("x={}", scene.at(file));

    assert!(submit("--roster", &scene.at("repeated.toml")).contains("number 2 and [[node]] number 4"));
    assert!(submit("--roster", &scene.at("nowhere.toml")).contains("cannot read"));
    let message = submit("--program", &scene.at("x.csv"));
    assert!(message.contains("x.csv: these bytes are not a program"), "{message}");
    let message = submit("--ticket", &scene.at("x.csv"));
    assert!(message.contains("x.csv exists already") && message.contains("--ticket"), "{message}");
    assert!(submit("--key", &scene.at("nowhere.key")).contains("nowhere.key"));
    assert!(submit("--key", &scene.at("x.csv")).contains("x.csv"));
    assert!(submit("--input", &x("short.csv")).contains("expected 2 rows of 3"));
    assert!(submit("--input", &x("text.csv")).contains("line 2, column 2: found \"five\""));
    assert!(submit("--input", &x("empty.csv")).contains("line 2, column 2: found an empty cell"));
    assert!(submit("--input", &x("large.csv")).contains("line 2, column 3: found 600"));
    assert!(submit("--input", &format!("q={}", scene.at("x.csv"))).contains("--input x=FILE.csv"));
    assert!(submit("--reader", "bob=bd1").contains("--reader"));
    assert!(submit("--reader", &format!("eve={}", keys[0])).contains("no reader \"eve\""));
    // Before the job, not when its result is there.
    let mut waiting = scene.submit(&[]);
    waiting.extend(["--wait".to_owned(), "--out".to_owned(), scene.at("x.csv")]);
    let message = refused(&strs(&waiting));
    assert!(message.contains("x.csv exists already") && message.contains("--out"), "{message}");
    assert!(!scene.path("job.ticket").exists());
    // Nobody listens there, and no ticket is left.
    assert!(submit("--ticket", &scene.at("job.ticket")).contains("node "));
    assert!(!scene.path("job.ticket").exists());

    assert!(refused(&["submit", "--frobnicate"]).contains("--frobnicate"));
    assert!(refused(&["frobnicate"]).contains("frobnicate"));
    assert!(refused(&[]).contains("--help"));
    assert!(refused(&["plan", &scene.at("linear.program"), "--nodes", "2"]).contains("Shamir with 2 nodes"));
    let spdz = ["plan", &scene.at("linear.program"), "--scheme", "spdz", "--threshold", "1"];
    assert!(refused(&spdz).contains("always stands 3"));
    assert!(refused(&["plan", &scene.at("linear.program"), "--latency", "slow"]).contains("--latency"));
    assert!(refused(&["keygen", "--out", &scene.at("owner.key")]).contains("never overwritten"));
    assert!(refused(&["keygen", "--out", &scene.at("new.key"), "--passphrase"]).contains("BEAVERDAM_PASSPHRASE"));
    let key = scene.at("owner.key");
    assert!(refused(&["node", "--key", &key]).contains("--allow-owner"));
    assert!(refused(&["node", "--key", &key, "--allow-owner", "everyone"]).contains("--allow-owner"));
    let store = scene.at("a.store");
    let listen = ["node", "--key", &key, "--allow-owner", &keys[0], "--store", &store, "--listen", "nowhere"];
    assert!(refused(&listen).contains("cannot listen on nowhere"));

    let empty = tempfile::tempdir().unwrap();
    let fetch = [scene.job("fetch", "owner.key"), vec!["--out".into(), empty.path().display().to_string()]].concat();
    assert!(refused(&strs(&fetch)).contains("job.ticket"));
    assert!(is_empty(empty.path()), "a refused command writes nothing");
}

#[test]
fn keys_come_from_files_and_the_environment() {
    let scene = Scene::new(0);
    let with = |args: &[&str], env: &[(&str, &str)]| {
        let out = beaverdam().args(args).envs(env.iter().copied()).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let protected = scene.at("protected.key");
    let passphrase = [("BEAVERDAM_PASSPHRASE", "correct horse")];
    let (code, key, _) = with(&["keygen", "--out", &protected, "--passphrase"], &passphrase);
    assert_eq!(code, Some(0));
    assert_eq!(with(&["key", &protected], &passphrase).1, key);
    let (code, out, message) = with(&["key", &protected], &[("BEAVERDAM_PASSPHRASE", "wrong battery")]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(message.contains("wrong passphrase") && !message.contains("battery"), "{message}");
    assert!(refused(&["key", &protected]).contains("BEAVERDAM_PASSPHRASE"));

    // A seed that is none is not shown, nor taken beside a file.
    let store = scene.at("seed.store");
    let node = ["node", "--allow-owner", "any", "--store", &store, "--listen", "nowhere"];
    let (code, _, message) = with(&node, &[("BEAVERDAM_KEY_SEED", "5eed")]);
    assert!(code == Some(2) && message.contains("64 lowercase hex digits"), "{message}");
    assert!(!message.contains("5eed"), "{message}");
    let seed = "07".repeat(32);
    let both = [("BEAVERDAM_KEY_SEED", seed.as_str()), ("BEAVERDAM_KEY", &protected)];
    assert!(with(&node, &both).2.contains("both"));
    let (code, _, message) = with(&node, &[("BEAVERDAM_KEY_SEED", &seed)]);
    assert!(code == Some(2) && message.contains("EVERY owner") && message.contains("cannot listen"), "{message}");
    let (code, _, message) = with(&node, &[]);
    assert!(code == Some(2) && message.contains("keygen"), "{message}");
}

#[test]
fn help_is_complete() {
    for command in
        ["keygen", "key", "node", "gpu", "plan", "submit", "resume", "fetch", "verify", "cancel", "move", "jobs"]
    {
        let help = ok(&[command, "--help"]);
        assert!(help.contains("Usage:"), "{command}");
        assert!(ok(&["--help"]).contains(command));
    }
    let help = ok(&["node", "--help"]);
    for variable in [
        "LISTEN",
        "KEY",
        "KEY_SEED",
        "ALLOW_OWNER",
        "STORE",
        "DEADLINE",
        "PATIENCE",
        "REPLACE_AFTER",
        "MAX_JOBS",
        "LOG",
    ] {
        assert!(help.contains(&format!("BEAVERDAM_{variable}")), "{variable}");
    }
    assert!(ok(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

/// The software driver, if there is one, is used only when it is named.
#[cfg(feature = "gpu")]
#[test]
fn gpus_are_listed_and_tested_and_software_is_asked_for_by_name() {
    let gpu = |allow: bool| {
        let mut command = beaverdam();
        command.args(["gpu", "--words", "4096", "--side", "16"]);
        if allow {
            command.env("BEAVERDAM_ALLOW_SOFTWARE_GPU", "1");
        }
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, out, err) = gpu(true);
    if out.starts_with("0 adapters") {
        assert!(std::env::var_os("BEAVERDAM_REQUIRE_GPU").is_none_or(|v| v != "1"), "a GPU is required: {err}");
        assert!(code == Some(2) && err.contains("driver installed?"), "{err}");
        return;
    }
    assert_eq!(code, Some(0), "{err}");
    for word in ["64-bit integers", "matrix products by", "Beaver combination", "all kernels equal the CPU's"] {
        assert!(out.contains(word), "{out}");
    }
    let (code, plain, err) = gpu(false);
    if out.contains("taken: ") && out.contains("(software,") {
        assert!(code == Some(2) && plain.contains("BEAVERDAM_ALLOW_SOFTWARE_GPU=1 allows it"), "{plain}{err}");
        // A node that must have a GPU does not begin without one.
        let scene = Scene::new(0);
        let key = scene.path("owner.key");
        let mut node = beaverdam();
        node.args(["node", "--backend", "gpu", "--listen", "127.0.0.1:0", "--allow-owner", "any", "--key"]);
        let out = node.arg(key).arg("--store").arg(scene.path("x.store")).output().unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        assert!(out.status.code() == Some(2) && err.contains("is a fit GPU"), "{err}");
    }
    let message = refused(&["node", "--backend", "cuda", "--allow-owner", "any"]);
    assert!(message.contains("expected auto, gpu or cpu"), "{message}");
}
