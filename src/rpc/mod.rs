//! Requests and replies, as nova's other services and our own commands send them. A transport: it
//! knows oslo.messaging's wire format, and none of nova's methods.

pub mod dispatcher;
pub mod envelope;
pub mod failure;
mod link;
pub mod options;
pub mod tls;
mod topology;
pub mod transport_url;
mod wire;
