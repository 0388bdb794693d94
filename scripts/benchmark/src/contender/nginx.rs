//! nginx: one worker, kept-alive connections to the backend, no log. Answers are buffered in memory on one port and passed
//! on as they come on another, each the cheaper way for its kind of answer.

use super::{Bench, Kind, NO_KEY, SetUp, free_ports};
use crate::{
    failure::Failure,
    load::Target,
    process::{Cores, on},
};

pub(super) fn set_up(bench: &Bench, kind: Kind) -> Result<SetUp, Failure> {
    let [whole, streams] = free_ports()?;
    let is_tls = kind == Kind::NginxTls;
    let folder = bench.folder.display();
    let (listen, certificate) = if is_tls {
        let lines = format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            bench.tls.certificate.display(),
            bench.tls.key.display()
        );
        (" ssl", lines)
    } else {
        ("", String::new())
    };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("  {name}_temp_path {folder}/nginx-{name};\n"))
        .collect();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let forward = "proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let config = format!(
        "daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn;
events {{ worker_connections 65000; }}
http {{
{temporary}  access_log off;
  keepalive_requests 1000000000;
  client_body_buffer_size 64k;
  {certificate}
  upstream backend {{ server {backend}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen {whole}{listen} backlog=4096;
    location / {{ {forward} proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k; }}
  }}
  server {{
    listen {streams}{listen} backlog=4096;
    location / {{ {forward} proxy_buffering off; proxy_read_timeout 600s; }}
  }}
}}
",
        backend = bench.backend,
    );
    let path = bench.write(&format!("{kind:?}.conf"), &config)?;
    let mut command = on(Cores::Measured, &bench.programs.nginx);
    command.args(["-e", "stderr", "-c"]).arg(path);
    let tls = is_tls.then(|| bench.tls.client.clone());
    Ok(SetUp {
        name: "nginx",
        command,
        log: bench.log(kind),
        whole: Target { address: whole, tls: tls.clone() },
        streams: Target { address: streams, tls },
        key: NO_KEY.to_owned(),
        sharing: None,
    })
}
