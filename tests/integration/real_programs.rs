//! Are the stacks of programs whole that nobody built for us: as Debian packs them, without frame
//! pointers, under some load?

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::processes::{DEADLINE, Target, wait_for};
use crate::programs::{Recipe, source};
use crate::report::Report;
use crate::trace::Trace;

/// Nearly all allocations have a whole stack; where the others end is said.
fn check(report: &Report) {
    let count = |of: &str| report.number(&format!("/health/stacks/{of}"));
    let (whole, cut_short, lost) = (count("complete"), count("cut_short"), count("lost"));
    let all = whole + cut_short + lost;
    assert!(all >= 1000, "only {all} allocations: that is no load");
    let lost_at = report.at("/health/stacks/lost_at");
    assert!(
        whole * 100 >= all * 99,
        "{whole} of {all} stacks are whole; {cut_short} were cut short, {lost} lost at {lost_at:#}"
    );
}

/// A server that listens on a socket in a folder of its own; it goes with its test.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts what `command` says for a folder, and waits until it listens.
    fn start(command: impl FnOnce(&Path) -> Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap_or_else(|error| {
                panic!("{command:?}: {error} (`cargo xtask test` gets it)")
            });
        let server = Self { child, folder };
        wait_for(DEADLINE, "the server listens", || server.try_connect().ok());
        server
    }

    fn try_connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(self.folder.path().join("socket"))
    }

    fn connect(&self) -> UnixStream {
        let connection = self.try_connect().unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A configuration of nginx: one process, compressed answers, and a proxy to itself.
fn nginx_conf(folder: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {folder}/{what};\n"))
        .collect();
    format!(
        "daemon off; master_process off; user root; pid {folder}/pid;
        events {{}}
        http {{
            access_log off; gzip on; gzip_min_length 1; gzip_types *;
            {temporary}
            server {{
                listen unix:{folder}/socket;
                location / {{ root {folder}; }}
                location /again {{ proxy_pass http://unix:{folder}/socket:/; }}
            }}
        }}"
    )
}

#[test]
fn nginx() {
    let server = Server::start(|folder| {
        fs::write(folder.join("index.html"), "leaktrace ".repeat(1000)).unwrap();
        let conf = folder.join("nginx.conf");
        fs::write(&conf, nginx_conf(folder.to_str().unwrap())).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder).arg("-e").arg(folder.join("log")).arg("-c").arg(conf);
        nginx
    });
    let mut trace = Trace::attach_pids(&[server.child.id()], &[]);
    for path in ["/", "/again", "/missing"].repeat(100) {
        let request = format!("GET {path} HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n");
        let mut connection = server.connect();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        connection.read_to_end(&mut answer).unwrap();
        let status = if path == "/missing" { "404" } else { "200" };
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    check(&trace.interrupt());
}

#[test]
fn redis() {
    let server = Server::start(|folder| {
        // The one binary, which is a server by its name; the package of that name starts it.
        let mut redis = Command::new("redis-check-rdb");
        redis.arg0("redis-server").args(["--port", "0", "--save", "", "--unixsocket"]);
        redis.arg(folder.join("socket")).arg("--dir").arg(folder);
        redis
    });
    let mut trace = Trace::attach_pids(&[server.child.id()], &[]);
    let mut connection = server.connect();
    for i in 0..500 {
        let commands = format!(
            "SET key:{i} {value}\r\nAPPEND key:{i} more\r\nHSET hash:{i} a 1 b {value}\r\n\
             RPUSH list {i}\r\nZADD set {i} member:{i}\r\nEVAL \"return {{'{i}', #KEYS}}\" 0\r\n",
            value = "x".repeat(100 + i)
        );
        connection.write_all(commands.as_bytes()).unwrap();
    }
    connection.write_all(b"SORT list\r\nQUIT\r\n").unwrap();
    let mut answers = String::new();
    connection.read_to_string(&mut answers).unwrap();
    assert!(!answers.contains("-ERR") && answers.ends_with("+OK\r\n"), "{answers}");
    let report = trace.interrupt();
    check(&report);
    // jemalloc's operators included, which end in jumps.
    assert_eq!(report.at("/health/probe_failures"), &serde_json::json!([]));
}

const SQL: &str = "\
create table goods (id integer primary key, name text, price real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
    insert into goods select i, 'name ' || (i % 100), i * 1.5 from n;
create index by_name on goods (name);
.output /dev/null
select name, count(*), group_concat(id), sum(price) from goods group by name order by 4;
select * from goods a join goods b on a.name = b.name where a.id % 100 = 1;
delete from goods where id % 2;
.output
.print done
";

#[test]
fn sqlite() {
    let mut shell = Command::new("sqlite3");
    shell.args(["-batch", "-cmd", ".print ready", ":memory:"]);
    let mut target = Target::spawn(&mut shell);
    let mut trace = Trace::attach(&target, &[]);
    target.tell(SQL);
    target.done();
    check(&trace.interrupt());
}

const EXTENSION: Recipe = Recipe {
    name: "extension.so",
    compiler: "gcc",
    flags: &["-O2", "-shared", "-fPIC"],
    sources: &["python/extension.c"],
};

#[test]
fn python_with_extensions() {
    let includes = Command::new("/usr/bin/python3-config").arg("--includes").output();
    let includes = includes.expect("/usr/bin/python3-config (Debian: python3-dev)").stdout;
    let includes = String::from_utf8(includes).unwrap();
    let extension = EXTENSION.made_with(&includes.split_whitespace().collect::<Vec<&str>>());
    let mut python = Command::new("/usr/bin/python3");
    python.arg(source("python/work.py")).arg(extension.parent().unwrap());
    let mut target = Target::spawn(&mut python);
    let mut trace = Trace::attach(&target, &[]);
    target.work();
    check(&trace.interrupt());
}
