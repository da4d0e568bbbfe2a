//! What ssh-agent is asked (draft-ietf-sshm-ssh-agent): which keys it holds, and to sign.
//!
//! Two requests are all that is needed. Libraries for them exist, but bring key types along that nobody accepts here.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::trust::wire;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// The longest reply, as OpenSSH has it.
const REPLY_BYTES: usize = 256 * 1024;

/// How long an agent may take to list its keys.
const LIST: Duration = Duration::from_secs(10);

/// How long an agent may take to sign: somebody may have to confirm, or to find the hardware key and touch it.
const SIGN: Duration = Duration::from_secs(120);

/// A running ssh-agent. Each request is a connection of its own, so that an agent may be replaced meanwhile.
#[derive(Clone, Debug)]
pub struct Agent {
    socket: PathBuf,
}

/// A key that an agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The public key or certificate in the SSH encoding.
    pub blob: Vec<u8>,
    /// What the agent calls it.
    pub comment: String,
}

/// What an agent replies. It is public for the fuzz targets alone.
#[doc(hidden)]
#[derive(Debug)]
pub enum Reply {
    /// The keys that it holds.
    Identities(Vec<Identity>),
    /// What it was asked to sign.
    Signature(ssh_key::Signature),
    /// It will not do what it was asked.
    Refused,
}

/// Why an agent was of no help. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// There is none.
    #[error("cannot reach ssh-agent at {}: {source}", socket.display())]
    Unreachable {
        /// Where it should listen.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to ssh-agent broke: {0}")]
    Broken(#[from] io::Error),
    /// It takes too long.
    #[error("ssh-agent has not replied for {} seconds", .0.as_secs())]
    Silent(Duration),
    /// It will not do what it was asked.
    #[error("ssh-agent refused: it is locked, the key is gone, or somebody declined")]
    Refused,
    /// It does not speak the protocol.
    #[error("what replies at {} is no ssh-agent", .0.display())]
    Malformed(PathBuf),
}

impl Agent {
    /// The agent at this Unix socket, to which nothing is sent yet.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The keys and certificates that it holds, in its order. A locked agent says that it holds none.
    ///
    /// # Errors
    /// It is of no help.
    pub async fn identities(&self) -> Result<Vec<Identity>, AgentError> {
        match self.ask(&[REQUEST_IDENTITIES], LIST).await? {
            Reply::Identities(identities) => Ok(identities),
            _ => Err(self.malformed()),
        }
    }

    /// Has the agent sign `data` with the key, or the key of the certificate, `identity`.
    ///
    /// # Errors
    /// It is of no help.
    pub async fn sign(&self, identity: &[u8], data: &[u8]) -> Result<ssh_key::Signature, AgentError> {
        let mut request = vec![SIGN_REQUEST];
        wire::push(&mut request, identity);
        wire::push(&mut request, data);
        // No flags: they choose among the algorithms of RSA.
        request.extend(0_u32.to_be_bytes());
        match self.ask(&request, SIGN).await? {
            Reply::Signature(signature) => Ok(signature),
            _ => Err(self.malformed()),
        }
    }

    /// Sends a request. Returns its reply, which is no refusal.
    async fn ask(&self, request: &[u8], patience: Duration) -> Result<Reply, AgentError> {
        let reply = timeout(patience, self.exchange(request)).await.map_err(|_| AgentError::Silent(patience))??;
        match Reply::from_bytes(&reply) {
            Some(Reply::Refused) => Err(AgentError::Refused),
            Some(reply) => Ok(reply),
            None => Err(self.malformed()),
        }
    }

    async fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, AgentError> {
        let unreachable = |source| AgentError::Unreachable { socket: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let mut message = Vec::new();
        wire::push(&mut message, request);
        stream.write_all(&message).await?;
        let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if length > REPLY_BYTES {
            return Err(self.malformed());
        }
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply).await?;
        Ok(reply)
    }

    fn malformed(&self) -> AgentError {
        AgentError::Malformed(self.socket.clone())
    }
}

impl Reply {
    /// Decodes a reply without its length; none where it is malformed, or to no request that is made here.
    pub fn from_bytes(reply: &[u8]) -> Option<Self> {
        let (kind, mut content) = reply.split_first()?;
        match *kind {
            FAILURE => Some(Self::Refused),
            IDENTITIES_ANSWER => identities(content).ok().map(Self::Identities),
            SIGN_RESPONSE => {
                let signature = wire::string(&mut content).ok()?;
                ssh_key::Signature::try_from(signature).ok().map(Self::Signature)
            }
            _ => None,
        }
    }
}

/// A number of keys, and so many pairs of key and comment.
fn identities(mut reply: &[u8]) -> Result<Vec<Identity>, wire::Malformed> {
    let count = wire::word(&mut reply)?;
    let mut identities = Vec::new();
    for _ in 0..count {
        let blob = wire::string(&mut reply)?.to_vec();
        let comment = String::from_utf8_lossy(wire::string(&mut reply)?).into_owned();
        identities.push(Identity { blob, comment });
    }
    Ok(identities)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// What is made of an agent that replies with these bytes.
    async fn ask(reply: &'static [u8]) -> Result<Vec<Identity>, AgentError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 5];
            stream.read_exact(&mut request).await.unwrap();
            assert_eq!(request, [0, 0, 0, 1, REQUEST_IDENTITIES]);
            // An agent whose reply is too long is not read to its end.
            drop(stream.write_all(reply).await);
        };
        let asking = Agent::at(&socket);
        tokio::join!(asking.identities(), agent).0
    }

    #[tokio::test]
    async fn replies_are_taken_for_what_they_are() {
        let two = b"\0\0\0\x19\x0c\0\0\0\x02\0\0\0\x01a\0\0\0\x01b\0\0\0\x01c\0\0\0\x01d";
        let identity = |blob: &[u8], comment: &str| Identity { blob: blob.to_vec(), comment: comment.into() };
        assert_eq!(ask(two).await.unwrap(), [identity(b"a", "b"), identity(b"c", "d")]);
        assert!(ask(b"\0\0\0\x05\x0c\0\0\0\0").await.unwrap().is_empty());
        assert!(matches!(ask(b"\0\0\0\x01\x05").await, Err(AgentError::Refused)));
        for odd in [
            &b"\0\0\0\0"[..],
            b"\0\0\0\x01\x0e",
            b"\0\0\0\x01\x0c",
            b"\0\0\0\x05\x0c\xff\xff\xff\xff",
            b"\0\x04\0\x01\x0c",
        ] {
            assert!(matches!(ask(odd).await, Err(AgentError::Malformed(_))), "{odd:?}");
        }
        assert!(matches!(ask(b"\0\0\0\x05\x0c").await, Err(AgentError::Broken(_))));
        assert!(matches!(Agent::at("/no/agent").identities().await, Err(AgentError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn an_agent_that_is_silent_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let _listener = UnixListener::bind(&socket).unwrap();
        let patience = Duration::from_millis(1);
        let reply = Agent::at(&socket).ask(&[REQUEST_IDENTITIES], patience).await;
        assert!(matches!(reply, Err(AgentError::Silent(given)) if given == patience), "{reply:?}");
    }
}
