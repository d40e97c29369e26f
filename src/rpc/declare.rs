//! Declaring what [`crate::rpc::topology`] says, with oslo.messaging's ways out where the broker
//! has something else already. A refused declaration closes its channel, so each try that follows
//! one has a new channel.
//!
//! oslo.messaging: _drivers/impl_rabbit.py, Consumer.declare

use std::time::Duration;

use lapin::Channel;
use lapin::ErrorKind;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use tracing::{info, warn};

use crate::rpc::link::Link;
use crate::rpc::topology::{ExchangeSpec, QueueSpec};

/// What can be done about a refused declaration.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// It is there, and not durable.
    NotDurable,
    /// A queue whose home is gone: delete it and declare it again.
    Broken,
    /// A quorum queue without a leader: it may find one.
    Wait,
}

/// The broker's reply code and text, where the error is one of the broker's.
fn refusal(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(refused) => {
            Some((refused.get_id(), refused.get_message().to_string()))
        }
        _ => None,
    }
}

fn remedy(code: u16, text: &str) -> Option<Remedy> {
    match code {
        406 if text.contains("inequivalent arg 'durable'") => Some(Remedy::NotDurable),
        404 => Some(Remedy::Broken),
        541 => Some(Remedy::Wait),
        _ => None,
    }
}

/// Was it refused because what is there isn't durable?
pub(crate) fn is_not_durable(error: &lapin::Error) -> bool {
    refusal(error).and_then(|(code, text)| remedy(code, &text)) == Some(Remedy::NotDurable)
}

/// Declares and binds `spec`. Each remedy is tried once.
pub(crate) async fn queue(link: &Link, spec: &QueueSpec) -> Result<(), lapin::Error> {
    let mut spec = spec.clone();
    let mut tried = Vec::new();
    loop {
        let channel = link.connection.create_channel().await?;
        let error = match queue_on(&channel, &spec).await {
            Ok(()) => return channel.close(200, "OK".into()).await,
            Err(error) => error,
        };
        let remedy = refusal(&error).and_then(|(code, text)| remedy(code, &text));
        let Some(remedy) = remedy.filter(|remedy| !tried.contains(remedy)) else {
            return Err(error);
        };
        match remedy {
            Remedy::NotDurable => {
                info!(
                    queue = spec.name,
                    "the exchange or queue there is not durable; neither is ours"
                );
                spec.durable = false;
                if let Some(exchange) = &mut spec.exchange {
                    exchange.durable = false;
                    exchange.auto_delete = spec.auto_delete;
                }
            }
            Remedy::Broken => {
                warn!(queue = spec.name, %error, "deleting a broken queue");
                let channel = link.connection.create_channel().await?;
                let gone =
                    channel.queue_delete(spec.name.as_str().into(), QueueDeleteOptions::default());
                // The next declaration shows whether it helped.
                gone.await.ok();
            }
            Remedy::Wait => tokio::time::sleep(Duration::from_secs(2)).await,
        }
        tried.push(remedy);
    }
}

/// Declares and binds on a channel of the caller's; an error closes it.
pub(crate) async fn queue_on(channel: &Channel, spec: &QueueSpec) -> Result<(), lapin::Error> {
    if let Some(exchange) = &spec.exchange {
        exchange_on(channel, exchange).await?;
    }
    let options = QueueDeclareOptions {
        durable: spec.durable,
        auto_delete: spec.auto_delete,
        ..QueueDeclareOptions::default()
    };
    let name = spec.name.as_str();
    channel.queue_declare(name.into(), options, spec.arguments.clone()).await?;
    if let Some(exchange) = &spec.exchange {
        let (exchange, key) = (exchange.name.as_str(), spec.routing_key.as_str());
        let options = QueueBindOptions::default();
        channel
            .queue_bind(name.into(), exchange.into(), key.into(), options, FieldTable::default())
            .await?;
    }
    Ok(())
}

/// Declares on a channel of the caller's; an error closes it.
pub(crate) async fn exchange_on(
    channel: &Channel,
    spec: &ExchangeSpec,
) -> Result<(), lapin::Error> {
    let options = ExchangeDeclareOptions {
        durable: spec.durable,
        auto_delete: spec.auto_delete,
        ..ExchangeDeclareOptions::default()
    };
    let (name, kind) = (spec.name.as_str(), spec.kind.clone());
    channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_oslos_remedy_or_none() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'nova'";
        assert_eq!(remedy(406, text), Some(Remedy::NotDurable));
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q'";
        assert_eq!(remedy(406, text), None);
        assert_eq!(remedy(404, "NOT_FOUND"), Some(Remedy::Broken));
        assert_eq!(remedy(541, "INTERNAL_ERROR"), Some(Remedy::Wait));
        assert_eq!(remedy(403, "ACCESS_REFUSED"), None);
    }
}
