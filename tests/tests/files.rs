//! What the program reads and writes besides regular files in folders of its own: links, pipes, names in other files, folders
//! in use, and what a kill leaves behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::thread::sleep;
use std::time::Duration;

use lambda_dpo_host::plugin::{ConvertOptions, Plugin};
use lambda_dpo_tests::trainer::{Run, metrics, stderr};
use lambda_dpo_tests::{fixture, plugin_library, program};

const POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 9\n";

fn last_line(output: &Output) -> String {
    stderr(output).lines().last().unwrap_or_default().to_owned()
}

/// The names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

/// Runs a command line of bash, in which `$program` is the program and `$records` the demo's records.
fn bash(folder: &Path, line: &str) -> Output {
    let built = program(folder);
    Command::new("bash")
        .args(["-c", line])
        .env("program", built.get_program())
        .env("records", fixture("demo/records.jsonl"))
        .env("LAMBDA_DPO_CACHE", folder.join("cache"))
        .current_dir(folder)
        .output()
        .unwrap()
}

fn succeeds(folder: &Path, line: &str) -> Output {
    let output = bash(folder, line);
    assert!(output.status.success(), "{line}: {}", stderr(&output));
    output
}

#[test]
fn an_output_path_may_be_a_link_or_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(folder, "$program convert --records $records --out plain.jsonl");
    let plain = fs::read(folder.join("plain.jsonl")).unwrap();
    assert!(!plain.is_empty());

    fs::create_dir(folder.join("elsewhere")).unwrap();
    fs::write(folder.join("elsewhere/real.jsonl"), "old").unwrap();
    fs::set_permissions(folder.join("elsewhere/real.jsonl"), PermissionsExt::from_mode(0o640)).unwrap();
    symlink("elsewhere/real.jsonl", folder.join("link.jsonl")).unwrap();
    succeeds(folder, "$program convert --records $records --out link.jsonl");
    assert!(folder.join("link.jsonl").is_symlink(), "the link was replaced");
    assert!(fs::read(folder.join("elsewhere/real.jsonl")).unwrap() == plain);
    let mode = fs::metadata(folder.join("elsewhere/real.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);

    // As /dev/stdout is, in a folder of the test's own.
    symlink("/proc/self/fd/1", folder.join("stdout")).unwrap();
    let piped = succeeds(folder, "$program convert --records $records --out stdout | cat");
    assert!(piped.stdout == plain, "{}", stderr(&piped));
    succeeds(folder, "{ echo before; $program convert --records $records --out stdout; echo after; } > all.txt");
    assert_eq!(fs::read(folder.join("all.txt")).unwrap(), [b"before\n", &plain[..], b"after\n"].concat());
    assert!(folder.join("stdout").is_symlink(), "the link was replaced");

    succeeds(folder, "mkfifo pipe; cat pipe > read.jsonl & $program convert --records $records --out pipe; wait");
    assert!(fs::read(folder.join("read.jsonl")).unwrap() == plain);
    assert!(fs::metadata(folder.join("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn records_may_come_through_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    succeeds(folder, "$program convert --records $records --out file.jsonl");
    succeeds(folder, "gzip -c $records > records.gz");
    succeeds(folder, "$program convert --records <(zcat records.gz) --out pipe.jsonl");
    succeeds(folder, "zcat records.gz | $program convert --records /dev/stdin --out stdin.jsonl");
    let file = fs::read(folder.join("file.jsonl")).unwrap();
    for name in ["pipe.jsonl", "stdin.jsonl"] {
        assert!(fs::read(folder.join(name)).unwrap() == file, "{name} differs");
    }
    // The message names the pipe.
    let output = bash(folder, "echo '{\"instruction\": ' | $program convert --records /dev/stdin --out none.jsonl");
    let message = last_line(&output);
    assert!(message.starts_with("error: /dev/stdin, line 1: not valid JSON"), "{message}");
    assert!(!folder.join("none.jsonl").exists());
}

#[test]
fn the_plugin_refuses_what_it_cannot_read_twice() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let error = plugin.reader(std::slice::from_ref(&pipe), &ConvertOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{}: this is not a regular file and can be read only once; write it to a file first", pipe.display())
    );
}

#[test]
fn a_run_trains_on_records_from_a_pipe() {
    let [file, pipe] = [(); 2].map(|()| Run::new("lambda_dpo"));
    file.train(&["train.max_steps=1"]);
    let records = pipe.path("records.jsonl");
    let text = fs::read(&records).unwrap();
    fs::remove_file(&records).unwrap();
    assert!(Command::new("mkfifo").arg(&records).status().unwrap().success());
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&records, &text).unwrap());
        pipe.train(&["train.max_steps=1"]);
    });
    assert_eq!(metrics(&pipe.output_dir())[0]["loss"], metrics(&file.output_dir())[0]["loss"]);
}

/// A process that does not outlive its test.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn two_runs_do_not_share_an_output_folder() {
    let run = Run::new("sft");
    let mut first = Running(run.spawn(&["train.max_steps=100000", "train.save_steps=0"]));
    while metrics(&run.output_dir()).is_empty() && first.0.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(5));
    }
    let second = run.try_train(&["train.max_steps=1"]);
    assert_eq!(
        last_line(&second),
        format!(
            "error: {} is in use by process {}: wait until that run has ended, or choose another output_dir",
            run.output_dir().display(),
            first.0.id()
        )
    );
    assert_eq!(second.status.code(), Some(1));
    first.kill();
    // The lock has gone with its process.
    assert!(run.output_dir().join(".lambda-dpo.lock").exists());
    run.train(&["train.max_steps=1"]);
    assert!(!run.output_dir().join(".lambda-dpo.lock").exists());
}

#[test]
fn a_finished_run_is_resumed_with_its_own_settings_only() {
    let run = Run::new("lambda_dpo");
    let steps = ["train.max_steps=2"];
    run.train(&steps);
    let again = run.train(&[steps[0], "train.resume=auto", "train.logging_steps=2"]);
    assert!(stderr(&again).contains("this run is finished"), "{}", stderr(&again));
    let result = run.output_dir().join("model");
    for (change, what) in [
        ("loss.beta=0.5", "loss.beta 0.1, but now has 0.5"),
        ("train.max_steps=3", "train.max_steps 2, but now has 3"),
        ("adapter.rank=2", "adapter.alpha not set, but now has 4.0"),
    ] {
        let output = run.try_train(&[steps[0], "train.resume=auto", change]);
        assert_eq!(output.status.code(), Some(1), "{change}: {}", stderr(&output));
        let message = last_line(&output);
        if change == "adapter.rank=2" {
            assert!(message.contains("the run was started with adapter."), "{message}");
            continue;
        }
        assert_eq!(
            message,
            format!(
                "error: cannot resume from {}: the run was started with {what}; set it back, or start a new run in another \
                 output_dir",
                result.display()
            )
        );
    }
}

#[test]
fn an_output_folder_that_cannot_be_written_is_found_out_first() {
    let run = Run::new("lambda_dpo");
    fs::write(run.path("file"), "").unwrap();
    let folder = run.path("file/run");
    let output = run.try_train(&[&format!("output_dir={}", folder.display())]);
    assert_eq!(
        stderr(&output).trim_end(),
        format!(
            "error: output_dir {} cannot be written: Not a directory (os error 20); choose another output_dir, or change its \
             permissions",
            folder.display()
        )
    );
    // A run that fails before it writes anything leaves no folder.
    fs::remove_file(run.path("model/config.json")).unwrap();
    run.try_train(&[]);
    assert!(!run.output_dir().exists());
}

#[test]
fn the_only_sample_cannot_be_held_out() {
    let run = Run::new("lambda_dpo");
    let output = run.try_train(&["data.max_samples=1", "data.eval_fraction=0.01"]);
    assert_eq!(
        last_line(&output),
        "error: data.eval_fraction = 0.01 holds out the only sample of data.records for evaluation, so that none is left to \
         train on: leave it out, or add records"
    );
}

#[test]
fn a_kill_inside_a_save_leaves_one_folder_that_the_next_run_removes() {
    for (adapter, limit_of) in
        [(&[][..], "model.safetensors"), (&[], "optimizer.safetensors"), (&["adapter.rank=64"], "")]
    {
        let run = Run::new("sft");
        let mut overrides = vec!["train.max_steps=3", "train.save_steps=2"];
        overrides.extend(adapter);
        // A file that exceeds the limit ends the process with a signal, in the middle of the write.
        let weights = fs::metadata(run.path("model/model.safetensors")).unwrap().len() / 1024;
        let limit = if limit_of == "optimizer.safetensors" { weights + 8 } else { 16 };
        let command = run.command(&overrides);
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let environment = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let script = format!("ulimit -c 0 -f {limit}; exec {}", words.join(" "));
        let output = Command::new("bash").args(["-c", &script]).envs(environment).output().unwrap();
        assert_eq!(output.status.signal(), Some(25), "{limit_of}: {}", stderr(&output));

        let is_hidden = |name: &String| name.starts_with('.') && name != ".lambda-dpo.lock";
        let left: Vec<String> = names(&run.output_dir()).into_iter().filter(is_hidden).collect();
        assert_eq!(left, [".checkpoint-2.partial", ".checkpoint-2.partial.lock"]);
        run.train(&[&overrides[..], &["train.resume=auto"]].concat());
        assert!(names(&run.output_dir()).iter().all(|name| !name.starts_with('.')), "{:?}", names(&run.output_dir()));
        assert!(run.output_dir().join("checkpoint-2/trainer_state.json").exists());
    }
}

#[test]
fn a_git_lfs_pointer_is_named_as_one() {
    for name in ["model/model.safetensors", "model/tokenizer.json", "model/config.json", "records.jsonl"] {
        let run = Run::new("sft");
        fs::write(run.path(name), POINTER).unwrap();
        assert_eq!(
            last_line(&run.try_train(&[])),
            format!(
                "error: {} is a Git LFS pointer, not the file that it stands for: run `git lfs pull` in its folder, or download \
                 the file",
                run.path(name).display()
            )
        );
    }
}

#[test]
fn an_index_of_weights_names_only_files_of_its_folder() {
    let run = Run::new("sft");
    let (model, secret) = (run.path("model"), run.path("secret.safetensors"));
    fs::rename(model.join("model.safetensors"), &secret).unwrap();
    let index = model.join("model.safetensors.index.json");
    symlink(&secret, model.join("link.safetensors")).unwrap();
    for name in ["../secret.safetensors", secret.to_str().unwrap(), "link.safetensors"] {
        fs::write(&index, format!("{{\"weight_map\": {{\"model.norm.weight\": {name:?}}}}}")).unwrap();
        let message = last_line(&run.try_train(&[]));
        assert!(message.starts_with(&format!("error: {}: it names the file `{name}`, ", index.display())), "{message}");
        assert!(message.contains("but only files in its own folder and below are read; "), "{message}");
    }
    fs::copy(&secret, model.join("part.safetensors")).unwrap();
    fs::write(&index, "{\"weight_map\": {\"model.norm.weight\": \"part.safetensors\"}}").unwrap();
    run.train(&["train.max_steps=1"]);
}

#[test]
fn what_a_kill_after_the_result_left_is_removed_by_the_next_run() {
    let run = Run::new("sft");
    run.train(&["train.max_steps=1"]);
    let before = names(&run.output_dir());
    for name in
        [".model.partial.lock", ".loss.svg.partial", ".loss.svg.partial.lock", ".run.toml.partial", ".lambda-dpo.lock"]
    {
        fs::write(run.output_dir().join(name), "1").unwrap();
    }
    let again = run.train(&["train.max_steps=1", "train.resume=auto"]);
    assert!(stderr(&again).contains("this run is finished"), "{}", stderr(&again));
    assert_eq!(names(&run.output_dir()), before);
}

/// A pipe that nobody writes to would keep the program waiting for good, and a device without an end would fill its memory.
#[test]
fn what_is_no_regular_file_is_refused() {
    let trained = Run::new("sft");
    trained.train(&["train.max_steps=2", "train.save_steps=1"]);
    for name in ["model", "checkpoint-2"] {
        fs::remove_dir_all(trained.output_dir().join(name)).unwrap();
    }
    let files =
        ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
    let of_run = ["run/checkpoint-1/trainer_state.json", "run/checkpoint-1/optimizer.safetensors", "run/metrics.jsonl"];
    let paths = files.map(|name| format!("model/{name}")).into_iter().chain(of_run.map(str::to_owned));
    for path in paths {
        let (file, kept) = (trained.path(&path), trained.path("kept"));
        let existed = fs::rename(&file, &kept).is_ok();
        for device in [false, true] {
            if device {
                symlink("/dev/zero", &file).unwrap();
            } else {
                assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
            }
            let output = trained.try_train(&["train.max_steps=2", "train.save_steps=1", "train.resume=auto"]);
            assert_eq!(output.status.code(), Some(1), "{path}: {}", stderr(&output));
            let message = last_line(&output);
            assert!(message.contains(Path::new(&path).file_name().unwrap().to_str().unwrap()), "{path}: {message}");
            assert!(
                message.contains("it is a pipe or a device, but a regular file is to be read"),
                "{path}: {message}"
            );
            fs::remove_file(&file).unwrap();
        }
        if existed {
            fs::rename(&kept, &file).unwrap();
        }
    }
}
