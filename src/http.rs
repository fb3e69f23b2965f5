//! The public HTTP API: the routes, their handlers, and the responses to rejected requests.

mod ack;
mod auth;
mod body;
mod charged;
mod client_permits;
mod decoder;
mod decoding;
mod head;
mod in_flight;
mod jobs;
mod origin;
mod payloads;
mod problem;
mod rejection;
mod relay;
mod request_id;
mod response;
mod rollout;
mod service;
mod sqsd;
mod state;

pub use in_flight::REQUESTS_IN_FLIGHT_MAX_BYTES;
pub use rejection::{rejection_outcome, render_rejection};
pub use service::PublicService;
pub use state::ApiState;
