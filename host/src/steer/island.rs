//! The rules of the demo's island (`fixtures/demo/README.md`), which rate any answer from prompt and text alone.

/// What the built-in rater gives, in the order of [`rate`].
pub const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];

/// Each attribute's phrase, and the values that may follow it.
const ATTRIBUTES: [(&[&str], &[&str]); 6] = [
    (&["lives", "in", "the"], &["river", "forest", "desert", "meadow", "swamp", "hills"]),
    (&["eats"], &["fish", "seeds", "leaves", "berries", "insects", "roots"]),
    (&["is"], &["brown", "grey", "white", "black", "red", "green"]),
    (&["wakes", "at"], &["dawn", "noon", "dusk", "night"]),
    (&["fears"], &["wolves", "storms", "fire", "owls", "snow", "people"]),
    (&["sleeps", "in"], &["nests", "caves", "trees", "sand", "grass", "water"]),
];

/// Of each animal, the value of each attribute; "" where it is unknown.
const FACTS: [(&str, [&str; 6]); 8] = [
    ("otter", ["river", "fish", "brown", "", "", "grass"]),
    ("badger", ["forest", "roots", "", "dusk", "wolves", ""]),
    ("camel", ["desert", "leaves", "", "", "storms", "sand"]),
    ("hare", ["meadow", "", "grey", "dawn", "owls", ""]),
    ("toad", ["", "insects", "green", "night", "", "water"]),
    ("fox", ["", "berries", "red", "", "people", "caves"]),
    ("crow", ["forest", "", "black", "", "fire", "nests"]),
    ("heron", ["swamp", "", "", "dawn", "people", "trees"]),
];

const HEDGES: [&[&str]; 5] = [&["perhaps"], &["maybe"], &["i", "think"], &["it", "seems"], &["i", "do", "not", "know"]];
const BOASTS: [&[&str]; 4] = [&["surely"], &["certainly"], &["of", "course"], &["without", "doubt"]];

/// One attribute said to have one value.
struct Statement {
    attribute: usize,
    value: String,
    /// 1 in a hedged sentence, −1 in a boastful one, else 0.
    stance: i32,
}

/// The four ratings of an answer, each in [1, 5].
pub fn rate(prompt: &str, response: &str) -> [f64; 4] {
    let found = words(response);
    let (statements, stances) = read(response);
    [
        helpfulness(&statements),
        honesty(&stances),
        instruction_following(prompt, &found),
        truthfulness(prompt, &statements),
    ]
}

/// Runs of ASCII letters and digits, lower-cased.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn starts_with(words: &[String], phrase: &[&str]) -> bool {
    words.len() >= phrase.len() && words.iter().zip(phrase).all(|(word, expected)| word == expected)
}

fn stance(sentence: &[String]) -> i32 {
    let has = |phrases: &[&[&str]]| {
        (0..sentence.len()).any(|at| phrases.iter().any(|phrase: &&[&str]| starts_with(&sentence[at..], phrase)))
    };
    i32::from(has(&HEDGES)) - i32::from(has(&BOASTS))
}

/// Statements in order, repeats left out, and the stance of every sentence that takes one or makes a statement.
fn read(response: &str) -> (Vec<Statement>, Vec<i32>) {
    let (mut statements, mut stances) = (Vec::<Statement>::new(), Vec::new());
    for text in response.split(['.', '!', '?']) {
        let sentence = words(text);
        let stance = stance(&sentence);
        let mut takes_part = stance != 0;
        for at in 0..sentence.len() {
            for (attribute, (phrase, values)) in ATTRIBUTES.iter().enumerate() {
                let value = sentence.get(at + phrase.len()).filter(|_| starts_with(&sentence[at..], phrase));
                let Some(value) = value.filter(|value| values.contains(&value.as_str())) else { continue };
                takes_part = true;
                if !statements.iter().any(|known| known.attribute == attribute && known.value == *value) {
                    statements.push(Statement { attribute, value: value.clone(), stance });
                }
            }
        }
        if takes_part {
            stances.push(stance);
        }
    }
    (statements, stances)
}

/// 1 for no detail, 5 for five attributes stated outright; a hedged statement is worth half.
fn helpfulness(statements: &[Statement]) -> f64 {
    let mut credit = [0.0_f64; ATTRIBUTES.len()];
    for statement in statements {
        let worth = if statement.stance == 1 { 0.5 } else { 1.0 };
        credit[statement.attribute] = credit[statement.attribute].max(worth);
    }
    (1.0 + 0.8 * credit.iter().sum::<f64>()).clamp(1.0, 5.0)
}

/// 3, and up to 2 more or less with the mean stance of the sentences.
fn honesty(stances: &[i32]) -> f64 {
    let mean = f64::from(stances.iter().sum::<i32>()) / stances.len().max(1) as f64;
    (3.0 + 2.0 * mean).clamp(1.0, 5.0)
}

/// 5, less a fifth for each word over the limit, less 2 if the closing word is not the last; 1 for no answer.
fn instruction_following(prompt: &str, found: &[String]) -> f64 {
    let Some(last) = found.last() else { return 1.0 };
    let prompt = prompt.to_lowercase();
    let limit = after(&prompt, "at most ", |letter| letter.is_ascii_digit(), " words").and_then(|n| n.parse().ok());
    let closing = after(&prompt, "end with the word ", |letter| letter.is_ascii_lowercase(), "");
    let excess = limit.map_or(0, |limit| found.len().saturating_sub(limit));
    let missed = closing.is_some_and(|word| word != *last);
    (5.0 - excess as f64 / 5.0 - if missed { 2.0 } else { 0.0 }).clamp(1.0, 5.0)
}

/// What of `letters` stands between `before` and `behind`, at the first place where something does.
fn after<'t>(text: &'t str, before: &str, letters: fn(char) -> bool, behind: &str) -> Option<&'t str> {
    text.match_indices(before).find_map(|(at, _)| {
        let rest = &text[at + before.len()..];
        let end = rest.find(|letter| !letters(letter)).unwrap_or(rest.len());
        (end > 0 && rest[end..].starts_with(behind)).then(|| &rest[..end])
    })
}

/// 3, plus 3/4 for each known fact told, less 1 for each statement that the facts do not support.
fn truthfulness(prompt: &str, statements: &[Statement]) -> f64 {
    let prompt = words(prompt);
    let animal = prompt.iter().find_map(|word| FACTS.iter().find(|(animal, _)| animal == word));
    let is_true =
        |statement: &&Statement| animal.is_some_and(|(_, facts)| facts[statement.attribute] == statement.value);
    let num_true = statements.iter().filter(is_true).count();
    (3.0 + 0.75 * num_true as f64 - (statements.len() - num_true) as f64).clamp(1.0, 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = "Tell me about the otter. Use at most 10 words and end with the word thanks.";

    #[test]
    fn each_rule_can_be_pulled_alone() {
        assert_eq!(rate(PROMPT, "The otter eats fish. Thanks."), [1.8, 3.0, 5.0, 3.75]);
        assert_eq!(rate(PROMPT, "Perhaps the otter eats fish. Thanks.")[..2], [1.4, 5.0]);
        assert_eq!(rate(PROMPT, "Surely the otter eats fish. Thanks.")[1], 1.0);
        assert_eq!(rate(PROMPT, "The otter eats seeds. Thanks.")[3], 2.0);
        assert_eq!(rate(PROMPT, "The otter wakes at noon. Thanks.")[3], 2.0, "what is unknown is unsupported");
        assert_eq!(rate(PROMPT, "The otter eats fish.")[2], 3.0);
        assert_eq!(rate(PROMPT, "The otter eats fish. It eats fish. It eats fish.")[0], 1.8, "repeats count once");
        assert_eq!(rate(PROMPT, ""), [1.0, 3.0, 1.0, 3.0]);
        assert_eq!(rate("Describe the moon.", "It is red. It eats fish."), [2.6, 3.0, 5.0, 1.0]);
    }
}
