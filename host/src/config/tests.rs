//! Tests of layers, messages and contradictions.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use super::*;

const MINIMAL: &str = r#"
stage = "lambda_dpo"
output_dir = "run"
[model]
path = "model"
[data]
records = ["records.jsonl"]
"#;

fn load_text(text: &str, environment: &[(&str, &str)], overrides: &[&str]) -> Result<RunConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    load(&path, environment, &overrides)
}

/// Returns the message without the temporary folder.
fn message(text: &str, overrides: &[&str]) -> String {
    let text = load_text(text, &[], overrides).unwrap_err().to_string();
    match (text.find("/"), text.find("run.toml")) {
        (Some(start), Some(end)) if start < end => format!("{}{}", &text[..start], &text[end..]),
        _ => text,
    }
}

fn with(section: &str) -> String {
    format!("{MINIMAL}\n{section}")
}

#[test]
fn later_layers_win() {
    let text = with("[train]\nlearning_rate = 1e-3\nmax_steps = 7\nwarmup_ratio = 0.5");
    let environment =
        [("LAMBDA_DPO__TRAIN__LEARNING_RATE", "2e-3"), ("LAMBDA_DPO__SEED", "7"), ("LAMBDA_DPO_PLUGIN", "x")];
    let config = load_text(&text, &environment, &["train.learning_rate=3e-3"]).unwrap();
    assert_eq!(config.train.learning_rate, 3e-3);
    assert_eq!(config.seed, 7);
    assert_eq!(config.train.max_steps, Some(7));
    assert_eq!(config.train.max_grad_norm, 1.0);
    assert_eq!(config.data.format, Some(Format::UltraFeedback));
}

#[test]
fn names_of_dimensions_keep_their_case_in_the_environment() {
    let weights = |text: &str, environment: &[(&str, &str)]| {
        load_text(text, environment, &["lambda.schedule=fixed"]).unwrap().lambda.weights.unwrap()
    };
    let environment = [("LAMBDA_DPO__LAMBDA__WEIGHTS__Honesty", "0.25"), ("LAMBDA_DPO__LAMBDA__WEIGHTS__BLEU", "0.75")];
    let expected = BTreeMap::from([("BLEU".into(), 0.75), ("Honesty".into(), 0.25)]);
    assert_eq!(weights(MINIMAL, &environment), expected);
    // What the file names is that entry, whatever the variable's case.
    let text = with("[lambda]\nweights = { honesty = 0.5, bleu = 0.5 }");
    assert_eq!(weights(&text, &environment), BTreeMap::from([("bleu".into(), 0.75), ("honesty".into(), 0.25)]));
}

#[test]
fn evaluation_steps_without_records_are_refused() {
    assert_eq!(
        message(MINIMAL, &["train.eval_steps=10"]),
        "train.eval_steps needs records to evaluate on: set data.eval_records or data.eval_fraction, or leave it out"
    );
    load_text(MINIMAL, &[], &["train.eval_steps=10", "data.eval_fraction=0.1"]).unwrap();
    load_text(MINIMAL, &[], &["train.eval_steps=10", "data.eval_records=[e.jsonl]"]).unwrap();
}

#[test]
fn overrides_are_typed() {
    let overrides = [
        "loss.paper_exact=false",
        "data.missing_rating=1.0",
        "data.dimensions=[honesty, truthfulness]",
        "data.exclude_sources=[\"truthful_qa\"]",
        "adapter.target_modules=[\"q_proj\",\"v_proj\"]",
        "train.resume=auto",
        "train.save_total_limit=2",
    ];
    let config = load_text(MINIMAL, &[], &overrides).unwrap();
    assert_eq!(config.data.missing_rating, MissingRating::Value(1.0));
    assert_eq!(config.data.dimensions.unwrap(), ["honesty", "truthfulness"]);
    assert_eq!(config.data.exclude_sources, ["truthful_qa"]);
    assert_eq!(config.adapter.unwrap().target_modules, TargetModules::Names(vec!["q_proj".into(), "v_proj".into()]));
    assert_eq!(config.train.resume, "auto");
    assert_eq!(config.train.save_total_limit, Some(2));
}

#[test]
fn a_table_that_is_set_whole_replaces_that_of_an_earlier_layer() {
    let text = with("[lambda]\nschedule = \"fixed\"\nweights = { honesty = 1.0 }");
    let replaced = load_text(&text, &[], &["lambda.weights={helpfulness=1}"]).unwrap();
    assert_eq!(replaced.lambda.weights.unwrap(), BTreeMap::from([("helpfulness".into(), 1.0)]));
    let merged = load_text(&text, &[], &["lambda.weights.honesty=0.25", "lambda.weights.other=0.75"]).unwrap();
    assert_eq!(merged.lambda.weights.unwrap().len(), 2);
}

#[test]
fn paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let text = MINIMAL.replace("\"model\"", "\"meta-llama/Llama-3.1-8B\"");
    std::fs::write(&path, text).unwrap();
    let config = load(&path, std::iter::empty(), &["data.chat_template=here.jinja".to_owned()]).unwrap();
    assert_eq!(config.output_dir, folder.path().join("run"));
    assert_eq!(config.data.records, [folder.path().join("records.jsonl")]);
    assert_eq!(config.model.path, Path::new("meta-llama/Llama-3.1-8B"));
    assert_eq!(config.data.chat_template.unwrap(), Path::new("here.jinja"));
    let nested = folder.path().join("a/b");
    std::fs::create_dir_all(&nested).unwrap();
    std::fs::write(nested.join("run.toml"), MINIMAL.replace("\"run\"", "\"../../run\"")).unwrap();
    let config = load(&nested.join("run.toml"), std::iter::empty(), &[]).unwrap();
    assert_eq!(config.output_dir, folder.path().join("run"));
    // The system resolves `..` of a link.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&nested, &link).unwrap();
    let config = load(&link.join("run.toml"), std::iter::empty(), &[]).unwrap();
    assert_eq!(config.output_dir, link.join("../../run"));
}

#[test]
fn a_resolved_config_reads_back_as_itself() {
    let text = with(
        "[adapter]\nrank = 4\n[lambda]\nschedule = \"table\"\n[[lambda.table]]\nprobability = 1\nweights = { a = 1 }",
    );
    let config = load_text(&text, &[], &["train.max_steps=3"]).unwrap().absolute().unwrap();
    let again = load_text(&toml::to_string(&config).unwrap(), &[], &[]).unwrap();
    assert_eq!(config, again);
    let paper = load_text(&with("[loss]\npaper_exact = true"), &[], &[]).unwrap().absolute().unwrap();
    assert_eq!(paper, load_text(&toml::to_string(&paper).unwrap(), &[], &[]).unwrap());
}

#[test]
fn unknown_keys_suggest_the_nearest() {
    assert_eq!(
        message(&with("[train]\nlearning_rat = 1e-3"), &[]),
        "run.toml: unknown key `train.learning_rat`; did you mean `train.learning_rate`?"
    );
    assert_eq!(
        message(MINIMAL, &["learning_rate=1e-3"]),
        "override `learning_rate=1e-3`: unknown key `learning_rate`; did you mean `train.learning_rate`?"
    );
    assert_eq!(
        load_text(MINIMAL, &[("LAMBDA_DPO__LOSS__BETTA", "1")], &[]).unwrap_err().to_string(),
        "environment variable LAMBDA_DPO__LOSS__BETTA: unknown key `loss.betta`; did you mean `loss.beta`?"
    );
    assert_eq!(message(&with("[zzz]\nq = 1"), &[]), "run.toml: unknown key `zzz`");
}

#[test]
fn a_torchscript_module_excludes_keys_of_the_decoder() {
    let with = |key: &str| message(MINIMAL, &["model.torchscript=m.pt", key]);
    for (key, excluded) in [
        ("model.init=random", "model.init = \"random\""),
        ("model.dtype=bfloat16", "model.dtype = \"bfloat16\""),
        ("train.gradient_checkpointing=true", "train.gradient_checkpointing = true"),
    ] {
        assert_eq!(with(key), format!("model.torchscript cannot be combined with {excluded}: leave it out"));
    }
    assert_eq!(
        with("adapter.rank=2"),
        "model.torchscript cannot be combined with an [adapter]: all of its parameters are trained"
    );
    assert_eq!(
        with("loss.layout=packed"),
        "loss.layout = \"packed\" needs an attention mask that model.torchscript does not take: leave it out, or set \"rows\""
    );
    let config = load_text(MINIMAL, &[], &["model.torchscript=m.pt"]).unwrap();
    assert_eq!(config.loss.layout, Layout::Rows);
}

#[test]
fn values_of_a_wrong_type_name_key_and_layer() {
    for (override_text, problem) in [
        ("train.learning_rate=fast", "must be a number, not string \"fast\""),
        ("train.max_steps=1.5", "must be a non-negative integer, not 1.5"),
        ("train.save_steps=-1", "must be a non-negative integer, not -1"),
        ("loss.layout=packd", "must be \"packed\", \"rows\" or \"expanded\", not \"packd\"; did you mean \"packed\"?"),
        (
            "loss.kind=simpoo",
            "must be \"listwise\", \"plackett_luce\", \"sigmoid\", \"hinge\", \"ipo\", \"simpo\", \"orpo\" or \"sft\", not \"simpoo\"; \
             did you mean \"simpo\"?",
        ),
        ("data.missing_rating=nan", "must be \"mask\" or a number, not NaN"),
        (
            "adapter.target_modules=all",
            "must be \"all-linear\" or a list of names, not \"all\"; did you mean \"all-linear\"?",
        ),
    ] {
        let key = override_text.split('=').next().unwrap();
        assert_eq!(message(MINIMAL, &[override_text]), format!("override `{override_text}`: `{key}` {problem}"));
    }
    assert_eq!(
        message("stage = ", &[]).split(':').next().unwrap(),
        "run.toml, line 1",
        "a file that is not TOML is reported with its line"
    );
    assert_eq!(
        message(MINIMAL, &["seed"]),
        "`seed` is not an override: write key=value, as in train.learning_rate=1e-4"
    );
    assert_eq!(
        message("output_dir = \"x\"", &[]),
        "the run config lacks `stage`: set it to \"sft\", \"dpo\" or \"lambda_dpo\""
    );
    assert_eq!(
        message(&MINIMAL.replace("path = \"model\"", ""), &[]),
        "the run config lacks `model.path`: set it to a model folder, or to its name on the Hugging Face hub"
    );
}

#[test]
fn contradictions_are_found() {
    for (section, expected) in [
        (
            "[lambda]\nschedule = \"fixed\"\nweights = { a = 0.5, b = 0.4 }",
            "lambda.weights sum to 0.9, not to 1: change them so that the difference is at most 0.001",
        ),
        (
            "[lambda]\nweights = { a = 1.0 }",
            "lambda.weights is only for lambda.schedule = \"fixed\", not \"dirichlet\"",
        ),
        ("[lambda]\nschedule = \"unimodal\"", "lambda.schedule = \"unimodal\" needs lambda.dimension"),
        ("[reference]\nkind = \"adapter_off\"", "reference.kind = \"adapter_off\" needs an [adapter] section"),
        ("[reference]\nkind = \"onnx\"", "reference.kind = \"onnx\" needs reference.path, the exported file or folder"),
        (
            "[reference]\nkind = \"none\"\npath = \"x\"",
            "reference.path is only for reference.kind = \"model\", not \"none\"",
        ),
        (
            "[loss]\nlayout = \"rows\"\nmax_tokens = 512",
            "loss.max_tokens is only for loss.layout = \"packed\", not \"rows\"",
        ),
        (
            "[adapter]\nrank_per_dimension = 4",
            "adapter.rank_per_dimension is only for adapter.kind = \"lambda_lora\", not \"lora\"",
        ),
        (
            "[adapter]\nkind = \"lambda_lora\"\nrank = 0",
            "adapter.rank_per_dimension, by default adapter.rank, must be at least 1, not 0",
        ),
        ("[loss]\nbeta = 0", "loss.beta must be a number above 0, not 0"),
        ("[train]\nlogging_steps = 0", "train.logging_steps must be at least 1, not 0"),
    ] {
        assert_eq!(message(&with(section), &[]), expected);
    }
    let sft = MINIMAL.replace("lambda_dpo", "sft");
    assert_eq!(
        message(&sft, &["adapter.kind=lambda_lora"]),
        "adapter.kind = \"lambda_lora\" in stage \"sft\" needs data.dimensions, the names of the dimensions of λ, because its records have none"
    );
    let dpo = MINIMAL.replace("lambda_dpo", "dpo");
    for (overrides, expected) in [
        (
            &["loss.kind=listwise"][..],
            "loss.kind in stage \"dpo\" must be \"sigmoid\", \"hinge\", \"ipo\", \"simpo\" or \"orpo\", not \"listwise\"",
        ),
        (
            &["loss.kind=simpo", "loss.reduction=sum"],
            "loss.reduction must be \"mean\" for loss.kind = \"simpo\", which is defined on means over tokens: leave it out",
        ),
        (&["loss.kind=orpo", "reference.kind=model"], "loss.kind = \"orpo\" has no reference: leave out [reference]"),
        (&["loss.simpo_gamma=1"], "loss.simpo_gamma is only for loss.kind = \"simpo\", not \"sigmoid\""),
        (
            &["loss.kind=ipo", "loss.label_smoothing=0.1"],
            "loss.label_smoothing is only for loss.kind = \"sigmoid\", not \"ipo\"",
        ),
        (&["loss.label_smoothing=0.5"], "loss.label_smoothing must be at least 0 and below 0.5, not 0.5"),
        (&["loss.sft_weight=-0.1"], "loss.sft_weight must be a non-negative number, not -0.1"),
        (&["loss.kind=simpo", "loss.simpo_gamma=-1"], "loss.simpo_gamma must be a non-negative number, not -1"),
    ] {
        assert_eq!(message(&dpo, overrides), expected);
    }
    assert_eq!(
        message(&sft, &["loss.sft_weight=1"]),
        "loss.sft_weight is for the stages dpo and lambda_dpo: stage \"sft\" is nothing but that likelihood"
    );
    assert_eq!(message(&sft, &["data.format=pairs"]), "stage \"sft\" needs data.format = \"chat\", not \"pairs\"");
}

#[test]
fn the_objective_and_its_defaults_follow_the_stage() {
    let resolved = |stage: &str, overrides: &[&str]| {
        let config = load_text(&MINIMAL.replace("lambda_dpo", stage), &[], overrides).unwrap();
        (config.loss.kind, config.loss.reduction, config.loss.simpo_gamma)
    };
    let expected = |kind, reduction, gamma| (Some(kind), Some(reduction), gamma);
    assert_eq!(resolved("sft", &[]), expected(Objective::Sft, Reduction::Sum, None));
    assert_eq!(resolved("dpo", &[]), expected(Objective::Sigmoid, Reduction::Sum, None));
    assert_eq!(resolved("lambda_dpo", &[]), expected(Objective::Listwise, Reduction::Sum, None));
    assert_eq!(resolved("dpo", &["loss.kind=simpo"]), expected(Objective::Simpo, Reduction::Mean, Some(0.5)));
    assert_eq!(resolved("dpo", &["loss.kind=ipo"]), expected(Objective::Ipo, Reduction::Mean, None));
    let sums = ["loss.kind=ipo", "loss.reduction=sum"];
    assert_eq!(resolved("dpo", &sums), expected(Objective::Ipo, Reduction::Sum, None));
}

#[test]
fn each_stage_takes_the_formats_that_it_can_train_on() {
    let dpo = MINIMAL.replace("lambda_dpo", "dpo");
    for (text, formats) in
        [(MINIMAL, &["ultrafeedback", "rankings"][..]), (&dpo, &["pairs", "ultrafeedback", "rankings"])]
    {
        for format in formats {
            let config = load_text(text, &[], &[&format!("data.format={format}")]).unwrap();
            assert_eq!(config.data.format.unwrap().name(), *format);
        }
    }
    let needs = |stage: &str, formats: &str, found: &str| {
        format!("stage \"{stage}\" needs data.format = {formats}, not \"{found}\"")
    };
    let found = message(MINIMAL, &["data.format=pairs"]);
    assert_eq!(found, needs("lambda_dpo", "\"ultrafeedback\" or \"rankings\"", "pairs"));
    let found = message(&dpo, &["data.format=chat"]);
    assert_eq!(found, needs("dpo", "\"pairs\", \"ultrafeedback\" or \"rankings\"", "chat"));
}

#[test]
fn paper_exact_sets_other_keys_and_rejects_contradictions() {
    let text = with("[loss]\npaper_exact = true");
    let config = load_text(&text, &[], &[]).unwrap();
    assert_eq!((config.loss.layout, config.loss.reduction), (Layout::Expanded, Some(Reduction::Mean)));
    assert_eq!((config.data.missing_rating, config.data.temperature), (MissingRating::Value(1.0), 1.0));
    assert_eq!((config.lambda.schedule, config.lambda.per), (Schedule::UniformNormalized, Per::Step));
    let config = load_text(&text, &[], &["lambda.schedule=dirichlet"]).unwrap();
    assert_eq!((config.lambda.schedule, config.lambda.per), (Schedule::Dirichlet, Per::Instance));
    for (key, value, implied) in [
        ("loss.layout", "packed", "\"expanded\""),
        ("loss.reduction", "sum", "\"mean\""),
        ("loss.kind", "plackett_luce", "\"listwise\""),
        ("data.missing_rating", "mask", "1.0"),
        ("data.temperature", "2.0", "1.0"),
    ] {
        assert_eq!(
            message(&text, &[&format!("{key}={value}")]),
            format!(
                "override `{key}={value}`: `{key}` contradicts loss.paper_exact, which implies {implied}: remove one of them"
            )
        );
    }
}
