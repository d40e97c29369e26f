//! Progress bars on the error output, where somebody looks at it: one for each instance, with the
//! workflow's step and the bytes of a long copy.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{Output, plain};
use super::view::WorkflowView;

/// The bars of one command.
pub struct Bars(Option<MultiProgress>);

/// One instance's bar; it goes away with the value.
pub struct Bar(Option<ProgressBar>);

impl Bars {
    pub fn for_output(output: &Output) -> Self {
        let draw = || MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self(output.is_lively().then(draw))
    }

    pub fn add(&self, name: &str) -> Bar {
        Bar(self.0.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style("{spinner} {prefix}  {msg}  {elapsed}"));
            bar.set_prefix(plain(name));
            bar
        }))
    }
}

impl Bar {
    /// Shows where the instance's workflow is; `None`: it isn't at work, or not yet.
    pub fn show(&self, workflow: Option<&WorkflowView>) {
        let Some(bar) = &self.0 else { return };
        match workflow {
            Some(WorkflowView { done: Some(done), total: Some(total), .. }) if *total > 0 => {
                bar.set_style(style(
                    "{spinner} {prefix}  {msg}  [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec}",
                ));
                bar.set_length(*total);
                bar.set_position(*done);
            }
            _ => bar.set_style(style("{spinner} {prefix}  {msg}  {elapsed}")),
        }
        let undoing = workflow.filter(|workflow| workflow.phase.eq_ignore_ascii_case("undoing"));
        let word = if undoing.is_some() { "taking back " } else { "" };
        let position = workflow.map_or_else(|| "waiting".to_owned(), WorkflowView::position);
        bar.set_message(plain(&format!("{word}{position}")));
        bar.tick();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well-formed")
}
