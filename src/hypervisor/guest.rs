#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct GuestError;
#[derive(Debug, Clone)]
pub struct GuestOptions;
pub struct GuestInput;
