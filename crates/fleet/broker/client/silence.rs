//! A server that takes nothing or answers nothing. Over memory, because by a clock that jumps on whenever nobody has
//! anything to do, nothing comes through a socket in time.

use tokio::io::{DuplexStream, duplex};

use super::*;
use crate::agent_key::AgentKey;

fn client(stream: DuplexStream) -> Client {
    let settings = LinkSettings {
        addresses: Vec::new(),
        tls: Arc::default(),
        name: "test".to_owned(),
        jwt: Arc::default(),
        key: Arc::new(AgentKey::generate()),
    };
    let opened = Opened { stream: Box::new(stream), buffer: BytesMut::new(), info: ServerInfo::default() };
    Client::start(settings, Some(opened), "_INBOX.agent.web-1", 8, mpsc::channel(8).0)
}

/// It sends something now and then, so that the line is not silent, but nothing that is asked for.
async fn chat(stream: DuplexStream, takes: bool) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let chatting = async {
        while writer.write_all(b"+OK\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    let mut buffer = [0; 4096];
    let taking = async {
        while takes && reader.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = chatting => {}
        () = taking => {}
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(600), future).await.expect("ten minutes are enough")
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_or_answers_nothing_is_left() {
    for takes in [false, true] {
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(chat(theirs, takes));
        let client = client(ours);
        let mut states = client.states();
        assert_eq!(client.state(), State::Connected(1));
        // More than the server's and the client's buffers hold, if it is not read.
        let block = vec![0; 512 * 1024];
        let full = async {
            for _ in 0..64 {
                client.send("x", &block).await?;
            }
            Ok::<_, SendError>(())
        };
        if takes {
            in_time(full).await.unwrap();
        } else {
            let stuck = in_time(timeout(Duration::from_secs(1), full)).await;
            assert!(stuck.is_err(), "nobody takes it");
        }
        let asked = Outgoing { subject: "y", ..Outgoing::default() };
        let asked = in_time(client.request(asked, Duration::from_secs(5))).await;
        assert!(matches!(asked, Err(RequestError::TimedOut(_))), "{asked:?}");
        in_time(states.wait_for(|state| !matches!(state, State::Connected(_)))).await.unwrap();
    }
}
