//! The public HTTP API: the routes, their handlers, and the responses to rejected requests.

mod ack;
mod auth;
mod body;
mod charged;
mod client_permits;
mod decoding;
mod head;
mod in_flight;
mod jobs;
mod origin;
mod payloads;
mod problem;
mod receipt;
mod request_id;
mod service;
mod state;

pub use problem::render_rejection;
pub use service::PublicService;
pub use state::ApiState;
