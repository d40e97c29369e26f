//! Requests and replies, as nova's other services and our own commands send them. A transport: it
//! knows oslo.messaging's wire format, and none of nova's methods.
//!
//! ```text
//! RabbitMQ ─▶ amqp ─▶ desk ──▶ Incoming {request, context, reply, ack} ─▶ dispatch
//!               │       └ duplicates                │
//!               └▶ client (our calls' answers)      ▼
//! RabbitMQ ◀─────────── publisher ◀──────── replies, client, notify
//! socket  ◀───────────▶ local ─────▶ Incoming
//! ```

pub mod amqp;
mod answer;
pub mod bus;
pub mod caller;
pub mod client;
pub mod compression;
pub mod counters;
mod declare;
mod desk;
pub mod dispatcher;
mod duplicates;
pub mod envelope;
pub mod failure;
pub mod image_argument;
pub mod incoming;
mod intake;
mod line;
mod link;
pub mod local;
pub mod methods;
mod network_arguments;
pub mod notify;
pub mod operator;
pub mod options;
pub mod preview;
mod publisher;
mod questions;
mod raised;
mod replies;
pub mod reply;
pub mod request;
pub mod server;
#[cfg(test)]
mod server_tests;
mod shelf_arguments;
mod snapshot_arguments;
pub mod tls;
mod topology;
pub mod transport_url;
mod volume_arguments;
pub mod watchdog;
mod wire;
