use super::*;
use crate::images::ConfigDriveFiles;
use crate::model::object::*;
use crate::network::Vif;
pub fn is_wanted(_: &Instance, _: &ImageMeta, _: &Settings) -> bool {
    false
}
pub fn files(
    _: &Instance,
    _: &spawn::Build,
    _: &[Vif],
    _: &Settings,
) -> Result<ConfigDriveFiles, StepError> {
    Ok(Default::default())
}
