//! An evaluation as a self-contained HTML page.

use std::fmt::Write as _;

use crate::answers::rater::Scores;
use crate::files::paths::policy_name;
use crate::page::{definitions, document, escape, figure};
use crate::plot::{self, Bar, Bars, Labels};

use super::estimate::Estimate;
use super::evaluation::{Evaluation, Rate, Subject};
use super::figure::{Section, Unit};
use super::figures::{Measured, figures};

/// An answer to show on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The prompt as text; of a conversation, its turns.
    pub prompt: String,
    /// The policy's answer.
    pub response: String,
    /// Its scores; empty without a judge.
    pub scores: Scores,
    /// The answer that it is compared with, and its scores.
    pub against: Option<(String, Scores)>,
}

/// Renders the page, with a few answers to show.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub fn html(evaluation: &Evaluation, answers: &[Example]) -> Result<String, String> {
    let all = figures(evaluation);
    let mut page = introduction(evaluation);
    page.push_str(&cards(evaluation, &all));
    for section in Section::ALL {
        let rows: Vec<&Measured> = all.iter().filter(|measured| measured.figure.section == section).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(page, "<h2>{}</h2>", section.title());
        let plots = plots(evaluation, section)?;
        if !plots.is_empty() {
            let _ = writeln!(page, "<div class=\"plots\">\n{}</div>", plots.concat());
        }
        page.push_str(&rows_of(&rows));
    }
    if !answers.is_empty() {
        page.push_str(&examples(evaluation, answers));
    }
    page.push_str(&settings(evaluation));
    Ok(document(&format!("Evaluation of {}", name(&evaluation.subject)), &page))
}

fn name(subject: &Subject) -> String {
    policy_name(subject.adapter.as_ref().unwrap_or(&subject.model))
}

fn introduction(evaluation: &Evaluation) -> String {
    let settings = &evaluation.settings;
    let mut text = format!("{} held-out records", settings.num_records);
    if settings.num_prompts > 0 {
        let answers = if settings.num_samples == 1 {
            "one answer".to_owned()
        } else {
            format!("{} answers", settings.num_samples)
        };
        let _ = write!(text, ", and {answers} to each of {} prompts", settings.num_prompts);
    }
    if let Some(judge) = &settings.judge {
        let _ = write!(text, ", scored by {judge}");
    }
    format!("<p>Measured on {}. Numbers after ± are standard errors.</p>\n", escape(text))
}

/// The figures that say most, large.
fn cards(evaluation: &Evaluation, all: &[Measured]) -> String {
    let mut cards = String::new();
    let mut card = |key: &str, note: String| {
        let Some(Measured { figure, value, stderr }) = all.iter().find(|measured| measured.figure.key == key) else {
            return;
        };
        let stderr = stderr.map_or_else(String::new, |stderr| format!(" ± {}", figure.unit.number(stderr)));
        let _ = writeln!(
            cards,
            "<div class=\"card\"><span class=\"soft small\">{}</span><b>{} <small>{}{stderr}</small></b>\
             <span class=\"soft small\">{}</span></div>",
            escape(&figure.title),
            figure.unit.number(*value),
            figure.unit.symbol(),
            escape(note)
        );
    };
    let interval = |rate: &Rate| {
        let [low, high] = rate.interval.map(|end| Unit::Share.number(end));
        format!("95 % interval {low} to {high} %; 50 % is a draw")
    };
    card("win_rate/rate", evaluation.win_rate.as_ref().map_or_else(String::new, |found| interval(&found.overall)));
    card("records/rewards/accuracies", "prompts whose best response ranks first".to_owned());
    card("kl/tokens", "how far the next token's distribution has moved".to_owned());
    let against = all.iter().find(|measured| measured.figure.key == "win_rate/mean_length/against");
    let against =
        against.map_or_else(String::new, |other| format!("{} on the other side", Unit::Characters.number(other.value)));
    card("win_rate/mean_length/policy", against);
    if cards.is_empty() { cards } else { format!("<div class=\"cards\">\n{cards}</div>\n") }
}

/// Renders a section's figures: name and meaning on the left, value on the right.
fn rows_of(rows: &[&Measured]) -> String {
    let mut text = String::from("<div class=\"scroll\"><table><tbody>\n");
    let mut said: Vec<&str> = Vec::new();
    for Measured { figure, value, stderr } in rows {
        // Figures of the same kind have the same meaning.
        let meaning = if said.contains(&figure.meaning.as_str()) {
            String::new()
        } else {
            format!("<small>{} {}</small>", escape(&figure.meaning), figure.direction())
        };
        said.push(&figure.meaning);
        let stderr =
            stderr.map_or_else(String::new, |stderr| format!("<small>± {}</small>", figure.unit.number(stderr)));
        let _ = writeln!(
            text,
            "<tr><td>{}{meaning}</td><td class=\"number\">{}{stderr}</td></tr>",
            escape(&figure.title),
            figure.unit.show(*value)
        );
    }
    text.push_str("</tbody></table></div>\n");
    text
}

/// Draws the plots of a section; empty if it has none.
fn plots(evaluation: &Evaluation, section: Section) -> Result<Vec<String>, String> {
    match section {
        Section::Dimensions => ratings(evaluation).into_iter().collect(),
        Section::Length => lengths(evaluation).map(|plot| vec![plot]),
        Section::Answers => {
            let plots = [win_rates(evaluation), scores(evaluation)];
            plots.into_iter().flatten().collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn bar(estimate: Estimate) -> Bar {
    let Estimate { mean, stderr } = estimate;
    Bar { value: mean, text: format!("{mean:.2}"), error: stderr.map(|stderr| (mean - stderr, mean + stderr)) }
}

fn ratings(evaluation: &Evaluation) -> Option<Result<String, String>> {
    let names = &evaluation.settings.dimensions;
    let value = |name: &String| evaluation.records.get(&format!("expected_rating/{name}"))?.as_f64();
    let bars: Vec<Option<Bar>> =
        names.iter().map(|name| value(name).map(|mean| bar(Estimate { mean, stderr: None }))).collect();
    bars.iter().any(Option::is_some).then(|| {
        let labels = Labels { title: "Expected rating", x: "rating", y: "dimension" };
        let svg = plot::bars(&labels, names, &[Bars { name: "policy".into(), bars }], None)?;
        Ok(figure(&svg, "The rating of a response drawn from the policy's distribution over a prompt's responses."))
    })
}

fn lengths(evaluation: &Evaluation) -> Result<String, String> {
    let sides = [&evaluation.spearman.sum, &evaluation.spearman.mean];
    let of = |name: &str, values: [Option<Estimate>; 2]| Bars {
        name: name.to_owned(),
        bars: values.map(|value| value.map(bar)).to_vec(),
    };
    let mut series = vec![of("policy", sides.map(|side| side.policy))];
    if sides.iter().any(|side| side.reference.is_some()) {
        series.push(of("reference", sides.map(|side| side.reference)));
    }
    let names = ["sum".to_owned(), "mean".to_owned()];
    let labels = Labels { title: "Log-probability and length", x: "Spearman's correlation", y: "log-probs" };
    let svg = plot::bars(&labels, &names, &series, Some(0.0))?;
    Ok(figure(
        &svg,
        "Error bars: one standard error. Where the policy's bar differs from the reference's, training has \
                     changed how it likes long responses.",
    ))
}

fn win_rates(evaluation: &Evaluation) -> Option<Result<String, String>> {
    let win_rate = evaluation.win_rate.as_ref()?;
    let percent = |value: f64| 100.0 * value;
    let bar = |rate: &Rate| {
        let error = Some((percent(rate.interval[0]), percent(rate.interval[1])));
        Some(Bar { value: percent(rate.rate), text: format!("{:.1} %", percent(rate.rate)), error })
    };
    let (mut names, mut bars) = (vec!["overall".to_owned()], vec![bar(&win_rate.overall)]);
    if let Some(value) = win_rate.overall.length_controlled.map(percent) {
        names.push("length-controlled".to_owned());
        bars.push(Some(Bar { value, text: format!("{value:.1} %"), error: None }));
    }
    for (name, rate) in &win_rate.scores {
        names.push(name.clone());
        bars.push(bar(rate));
    }
    let against = evaluation.settings.against.as_deref().unwrap_or("the other answers");
    let against = if against == "reference" { "the reference" } else { against };
    let labels = Labels { title: "Win rate", x: "answers that win, in %", y: "judged by" };
    Some(plot::bars(&labels, &names, &[Bars { name: "policy".into(), bars }], Some(50.0)).map(|svg| {
        let caption = format!(
            "Against {against}. Error bars: 95 % intervals; an interval that crosses the dashed line at 50 % may be a draw."
        );
        figure(&svg, &caption)
    }))
}

fn scores(evaluation: &Evaluation) -> Option<Result<String, String>> {
    if evaluation.scores.is_empty() {
        return None;
    }
    let names: Vec<String> = evaluation.scores.keys().cloned().collect();
    let policy = evaluation.scores.values().map(|sides| Some(bar(sides.policy))).collect();
    let mut series = vec![Bars { name: "policy".into(), bars: policy }];
    if evaluation.scores.values().any(|sides| sides.against.is_some()) {
        let against = evaluation.scores.values().map(|sides| sides.against.map(bar)).collect();
        series.push(Bars { name: "the other side".into(), bars: against });
    }
    let labels = Labels { title: "Mean score of the answers", x: "score", y: "judged by" };
    Some(plot::bars(&labels, &names, &series, None).map(|svg| figure(&svg, "Error bars: one standard error.")))
}

fn examples(evaluation: &Evaluation, answers: &[Example]) -> String {
    let mut text = String::from(
        "<h2>Answers</h2>\n<p>The first prompts and what was answered, not selected; all answers are in \
         <code>answers.jsonl</code>.</p>\n",
    );
    let policy = name(&evaluation.subject);
    let other = match evaluation.settings.against.as_deref() {
        None | Some("reference") => "the reference",
        Some(other) => other,
    };
    for answer in answers {
        let _ = writeln!(text, "<div class=\"prompt\">{}</div>\n<div class=\"pair\">", escape(&answer.prompt));
        let mut side = |name: &str, response: &str, scores: &Scores| {
            let scores: Vec<String> = scores.iter().map(|(name, score)| format!("{name} {score:.2}")).collect();
            let heading = if scores.is_empty() { name.to_owned() } else { format!("{name} · {}", scores.join(", ")) };
            let response = if response.is_empty() { "(no text)" } else { response };
            let _ = writeln!(
                text,
                "<div><h4>{}</h4><div class=\"answer\">{}</div></div>",
                escape(heading),
                escape(response)
            );
        };
        side(&policy, &answer.response, &answer.scores);
        if let Some((response, scores)) = &answer.against {
            side(other, response, scores);
        }
        text.push_str("</div>\n");
    }
    text
}

fn settings(evaluation: &Evaluation) -> String {
    let (subject, settings) = (&evaluation.subject, &evaluation.settings);
    let mut entries = vec![("model", subject.model.display().to_string())];
    if let Some(adapter) = &subject.adapter {
        entries.push(("adapter", adapter.display().to_string()));
    }
    if let Some(lambda) = &subject.lambda {
        entries.push(("λ of the adapter", weights(lambda.iter().map(|(name, weight)| (name.as_str(), *weight)))));
    }
    let reference =
        if subject.reference == "adapter_off" { "the model without its adapter" } else { &subject.reference };
    entries.push(("reference", reference.to_owned()));
    let names = settings.dimensions.iter().map(String::as_str);
    entries.push(("λ of loss and accuracy", weights(names.zip(settings.lambda.iter().copied()))));
    entries.push(("β", settings.beta.to_string()));
    entries.push(("reduction of token log-probs", settings.reduction.clone()));
    entries.push(("held-out records", settings.num_records.to_string()));
    if settings.num_prompts > 0 {
        let sampling = format!(
            "{} prompts × {}, at most {} tokens, temperature {}, seed {}",
            settings.num_prompts, settings.num_samples, settings.max_new_tokens, settings.temperature, settings.seed
        );
        entries.push(("answers", sampling));
    }
    entries.extend(settings.judge.iter().map(|judge| ("judge", judge.clone())));
    entries.extend(settings.against.iter().map(|against| ("compared with", against.clone())));
    entries.extend(evaluation.run.iter().map(|run| ("training run", run.folder.display().to_string())));
    format!("<h2>Settings</h2>\n{}", definitions(&entries))
}

fn weights<'a>(weights: impl Iterator<Item = (&'a str, f64)>) -> String {
    weights.map(|(name, weight)| format!("{name} {weight:.3}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::evaluate::sample;

    fn example(prompt: &str) -> Example {
        let scores = Scores::from([("honesty".to_owned(), 4.5)]);
        Example {
            prompt: prompt.to_owned(),
            response: "An otter <b>swims</b>.".to_owned(),
            scores: scores.clone(),
            against: Some((String::new(), scores)),
        }
    }

    #[test]
    fn a_page_shows_every_figure_with_its_meaning() {
        let evaluation = sample::evaluation();
        let page = html(&evaluation, &[example("Describe the otter & <its> den.")]).unwrap();
        for Measured { figure, value, .. } in figures(&evaluation) {
            for text in [&figure.title, &figure.meaning, &figure.unit.show(value)] {
                assert!(page.contains(&escape(text)), "{text}");
            }
        }
        // Ratings, lengths, win rates, scores.
        assert_eq!(page.matches("<svg").count(), 4);
        for text in
            ["Evaluation of uniform-1", "Describe the otter &amp; &lt;its&gt; den.", "honesty 4.50", "(no text)"]
        {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<b>swims") && !page.contains("<script"));
    }

    #[test]
    fn what_was_not_measured_is_not_on_the_page() {
        let mut evaluation = sample::evaluation();
        (evaluation.kl, evaluation.win_rate, evaluation.run) = (None, None, None);
        evaluation.scores.clear();
        evaluation.settings.num_prompts = 0;
        let page = html(&evaluation, &[]).unwrap();
        assert_eq!(page.matches("<svg").count(), 2);
        for text in ["Generated answers", "<h2>Answers", "Win rate", "Cost of the training", "NaN"] {
            assert!(!page.contains(text), "{text}");
        }
    }
}
