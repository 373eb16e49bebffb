//! A client with as little as possible in it: a connection for each request, and every answer is the server's own.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;

/// How long a connection may take, and a pause within an answer.
const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(4);

/// Speaks to servers of one cluster.
#[derive(Clone)]
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

/// The lines of a watch.
pub(crate) struct Watch(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    /// With the certificates of an administrator's kubeconfig.
    pub(crate) fn of(kubeconfig: &Path) -> Self {
        let file: Value = serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap();
        let pem = |at: &str| STANDARD.decode(file.pointer(at).unwrap().as_str().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&pem("/clusters/0/cluster/certificate-authority-data")) {
            roots.add(authority.unwrap()).unwrap();
        }
        let chain = CertificateDer::pem_slice_iter(&pem("/users/0/user/client-certificate-data")).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")).unwrap();
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .unwrap();
        Self { tls: Arc::new(tls) }
    }

    fn open(&self, address: &str, request: &[u8]) -> io::Result<BufReader<StreamOwned<ClientConnection, TcpStream>>> {
        let address: SocketAddr = format!("{address}:6443").parse().unwrap();
        let stream = TcpStream::connect_timeout(&address, CONNECT)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let connection = ClientConnection::new(self.tls.clone(), ServerName::from(address.ip())).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        stream.write_all(request)?;
        stream.flush()?;
        Ok(BufReader::new(stream))
    }

    /// Asks a server; an error is one of the connection.
    pub(crate) fn ask(&self, address: &str, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        // Without chunks, and at its end closed.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = self.open(address, &[head.as_bytes(), body.as_bytes()].concat())?;
        let (code, length) = head_of(&mut stream)?;
        let mut bytes = Vec::new();
        match length {
            Some(length) => {
                bytes.resize(length, 0);
                stream.read_exact(&mut bytes)?;
            }
            None => drop(stream.read_to_end(&mut bytes)?),
        }
        Ok(Answer { code, body: serde_json::from_slice(&bytes).map_err(io::Error::other)? })
    }

    /// Begins a watch.
    pub(crate) fn watch(&self, address: &str, path: &str) -> io::Result<Watch> {
        let mut stream = self.open(address, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        match head_of(&mut stream)? {
            (200, _) => Ok(Watch(stream)),
            (code, _) => Err(io::Error::other(format!("HTTP {code}"))),
        }
    }
}

impl Watch {
    /// The next event; an error or `None` ends it. A pause is an error, too: whoever watches asks for bookmarks, or again.
    pub(crate) fn next(&mut self) -> io::Result<Option<Value>> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).map_err(io::Error::other)
    }
}

fn head_of(stream: &mut impl BufRead) -> io::Result<(u16, Option<usize>)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| io::Error::other("no answer"))?;
    let mut length = None;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::Error::other("half an answer"));
        }
        if line.trim().is_empty() {
            return Ok((code, length));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
}
