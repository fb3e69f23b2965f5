//! What an operator can do about an error of the servers or of the client.

/// What a part of an error, in lower case, says to do.
const ADVICE: [(&[&str], &str); 5] = [
    (&["permissions violation"], "the user of the broker lacks a permission; docs/fleet.md#security lists them"),
    (&["authorization"], "check BROKER_CREDENTIALS, or the user and password in BROKER_URL"),
    (&["certificate", "tls error"], "check BROKER_CA, and that the certificate has the name in BROKER_URL"),
    (&["corrupt message"], "the server does not speak TLS: configure it there, or use nats:// in BROKER_URL"),
    (
        &["requested jetstream resource", "jetstream not enabled"],
        "start the servers with JetStream (nats-server --jetstream)",
    ),
];

/// The error, with what to do about it if that is known.
pub(super) fn with_advice(error: &str) -> String {
    let text = error.to_ascii_lowercase();
    let advice = ADVICE.iter().find(|(parts, _)| parts.iter().any(|part| text.contains(part)));
    advice.map_or_else(|| error.to_owned(), |(_, advice)| format!("{error}: {advice}"))
}
