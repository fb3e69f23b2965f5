//! Credentials that are renewed while a process runs, with servers that trust an operator.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::nats::{Nats, batch, server};
use crate::support::until;

/// A token that `issuer` signs for `subject`.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let public = subject.public_key();
    let claims = json!({ "jti": public, "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": public, "name": "test", "nats": nats });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

/// An operator, the account of millpond, and that of the system.
struct Trust {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Trust {
    fn new() -> Self {
        Self { operator: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }

    /// The configuration of a server that does not admit the users of `revoked`.
    fn configuration(&self, revoked: &[&KeyPair]) -> String {
        let revocations: Value = revoked.iter().map(|user| (user.public_key(), json!(1_800_000_000))).collect();
        let account = |key: &KeyPair, storage: i64, revocations: &Value| {
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
                "mem_storage": storage, "disk_storage": storage, "streams": storage, "consumer": storage,
            });
            let nats = json!({ "type": "account", "version": 2, "limits": limits, "revocations": revocations });
            format!("{}: {}", key.public_key(), jwt(&self.operator, key, &nats))
        };
        let operator = jwt(&self.operator, &self.operator, &json!({ "type": "operator", "version": 2 }));
        format!(
            "listen: 127.0.0.1:-1\njetstream {{ store_dir: \"FOLDER/jetstream\", max_file_store: 100GB, sync_interval: always }}\n\
             operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n{}\n}}\n",
            self.system.public_key(),
            account(&self.system, 0, &json!({})),
            account(&self.account, -1, &revocations),
        )
    }

    /// Writes the credentials of a user, as the tools of NATS do.
    fn write_credentials(&self, user: &KeyPair, path: &Path) {
        let nats = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        let (jwt, seed) = (jwt(&self.account, user, &nats), user.seed().unwrap());
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\nKeep it secret.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }
}

#[tokio::test]
async fn renewed_credentials_are_used_at_the_next_connection_without_a_restart() {
    let (trust, store) = (Trust::new(), tempfile::tempdir().unwrap());
    let [first, second] = [KeyPair::new_user(), KeyPair::new_user()];
    let mut nats = Nats::start_configured(&trust.configuration(&[])).await;
    let path = store.path().join("millpond.creds");
    trust.write_credentials(&first, &path);
    let front = server(&nats.url(), "front", &store, &[("BROKER_CREDENTIALS", path.to_str().unwrap())]).await;
    until("a batch is accepted", async || front.post_json(&batch("first")).await.status == 202).await;
    nats.kill().await;
    nats.start_again_with(&trust.configuration(&[&first])).await;
    until("readiness names the setting", async || {
        let reasons = front.ready().await.1;
        reasons.contains("authorization violation") && reasons.contains("check BROKER_CREDENTIALS")
    })
    .await;
    fs::write(&path, "secret-garbage").unwrap();
    until("readiness says what it expects", async || front.ready().await.1.contains("expected a JWT of a user")).await;
    trust.write_credentials(&second, &path);
    until("a batch is accepted", async || front.post_json(&batch("second")).await.status == 202).await;
    assert!(!front.log().contains("secret-garbage"));
}
