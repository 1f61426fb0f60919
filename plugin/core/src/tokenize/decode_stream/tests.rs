#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;

fn fixture(folder: &str) -> Arc<Tokenizer> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(folder);
    Arc::new(Tokenizer::open(&folder, None).unwrap())
}

/// A tokenizer of characters, a few merges, two special tokens and, for `byte_fallback`, a token for each byte.
fn of_decoder(decoder: &Value, byte_fallback: bool) -> Arc<Tokenizer> {
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let bytes = (0..256).filter(|_| byte_fallback).map(|byte| format!("<0x{byte:02X}>"));
    let characters = "▁abcdehilot.,!?'�".chars().map(String::from);
    let merges = ["t h", "th e", "▁ the", "▁ ▁", "o o"];
    let merged = merges.iter().map(|merge| merge.replace(' ', ""));
    let whole = ["##o", "##d", "the</w>", "d</w>", "▁▁a"].map(str::to_owned);
    let vocab: serde_json::Map<String, Value> = tokens
        .chain(bytes)
        .chain(characters)
        .chain(merged)
        .chain(whole)
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let tokenizer = json!({"version": "1.0", "added_tokens": [added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": byte_fallback, "vocab": vocab, "merges": merges}});
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    Arc::new(Tokenizer::open(folder.path(), None).unwrap())
}

fn sequence(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

/// As in Llama 2 and Mistral.
fn llama() -> Arc<Tokenizer> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    of_decoder(&sequence(&[replace, json!({"type": "ByteFallback"}), json!({"type": "Fuse"}), strip]), true)
}

fn tokenizers() -> Vec<(&'static str, Arc<Tokenizer>)> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let gemma = sequence(&[replace, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})]);
    let metaspace = |scheme| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    vec![
        ("byte level", fixture("chat_templates/tokenizer")),
        ("fused", fixture("demo/model")),
        ("words", fixture("words")),
        ("llama", llama()),
        ("gemma", of_decoder(&gemma, true)),
        ("metaspace, always", of_decoder(&metaspace("always"), false)),
        ("metaspace, first", of_decoder(&metaspace("first"), false)),
        ("bytes after metaspace", of_decoder(&sequence(&[metaspace("always"), json!({"type": "ByteFallback"})]), true)),
        ("word pieces", of_decoder(&json!({"type": "WordPiece", "prefix": "##", "cleanup": true}), false)),
        ("suffixes", of_decoder(&json!({"type": "BPEDecoder", "suffix": "</w>"}), false)),
        ("none", of_decoder(&Value::Null, true)),
    ]
}

/// The pieces that each token gives, and the rest.
fn pieces(stream: &mut DecodeStream, ids: &[i64]) -> Vec<String> {
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.step(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[track_caller]
fn joins_to_the_whole(name: &str, tokenizer: &Arc<Tokenizer>, stream: &mut DecodeStream, ids: &[i64]) {
    let whole = tokenizer.decode(ids, stream.skip_special_tokens).unwrap();
    assert_eq!(pieces(stream, ids).concat(), whole, "{name}, {ids:?}");
}

#[test]
fn the_pieces_of_texts_join_to_the_decoded_text() {
    let texts = [
        "",
        " ",
        "the cat",
        "  the  cat \n\n the\tdog ",
        "a 🙂🙃 b",
        "👩‍👩‍👧‍👦 and 🇫🇷",
        "héllo\nwörld, 你好世界!",
        "<s>the</s> dog<s>",
        "it 's do not .",
        "a\u{fffd}b\u{fffd}\u{fffd}",
        "\u{fffd}",
    ];
    for (name, tokenizer) in tokenizers() {
        for skip_special_tokens in [false, true] {
            let mut stream = DecodeStream::new(Arc::clone(&tokenizer), skip_special_tokens);
            for text in texts {
                // Words have no token for most of these.
                let Ok(ids) = tokenizer.encode(text) else { continue };
                joins_to_the_whole(name, &tokenizer, &mut stream, &ids);
            }
        }
    }
}

#[test]
fn the_pieces_of_any_tokens_join_to_the_decoded_text() {
    for (name, tokenizer) in tokenizers() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        // A few ids beyond the vocabulary, which decode to nothing.
        let vocab_size = tokenizer.info().vocab_size as u64 + 3;
        for case in 0..400 {
            let mut stream = DecodeStream::new(Arc::clone(&tokenizer), case % 2 == 0);
            let ids: Vec<i64> = (0..random.next_u64() % 40).map(|_| (random.next_u64() % vocab_size) as i64).collect();
            joins_to_the_whole(name, &tokenizer, &mut stream, &ids);
        }
        // Runs of bytes, valid and not, between other tokens.
        let bytes: Vec<i64> = (0..=255_u8)
            .filter_map(|byte| tokenizer.encoder.token_to_id(&format!("<0x{byte:02X}>")).map(i64::from))
            .collect();
        let of_text = |text: &str| text.bytes().map(|byte| bytes[usize::from(byte)]).collect::<Vec<i64>>();
        for case in 0..if bytes.is_empty() { 0 } else { 400 } {
            let mut stream = DecodeStream::new(Arc::clone(&tokenizer), case % 2 == 0);
            let part = |random: &mut ChaCha8Rng| match random.next_u64() % 5 {
                0 => of_text("é🙂\n"),
                1 => vec![bytes[(random.next_u64() % 256) as usize]],
                2 => of_text("🙂")[..1 + (random.next_u64() % 3) as usize].to_vec(),
                _ => vec![(random.next_u64() % vocab_size) as i64],
            };
            let ids: Vec<i64> = (0..random.next_u64() % 12).flat_map(|_| part(&mut random)).collect();
            joins_to_the_whole(name, &tokenizer, &mut stream, &ids);
        }
    }
}

#[test]
fn a_character_comes_whole() {
    let tokenizer = fixture("chat_templates/tokenizer");
    let ids = tokenizer.encode("🙂").unwrap();
    assert_eq!(ids.len(), 3, "the fixture no longer spreads the character over three tokens");
    let mut stream = DecodeStream::new(tokenizer, true);
    assert_eq!(pieces(&mut stream, &ids), ["", "", "🙂", ""]);
    assert_eq!(pieces(&mut stream, &ids[..2]), ["", "", "\u{fffd}"], "finishing begins a new text");
}

#[test]
fn bytes_come_when_their_run_has_ended() {
    let tokenizer = llama();
    let byte = |byte: u8| i64::from(tokenizer.encoder.token_to_id(&format!("<0x{byte:02X}>")).unwrap());
    let the = i64::from(tokenizer.encoder.token_to_id("▁the").unwrap());
    let mut stream = DecodeStream::new(Arc::clone(&tokenizer), true);
    let ids = [the, byte(b'\n'), the, byte(0xC3), byte(0xA9), the, byte(b' '), byte(0xC3), the];
    let expected = ["the", "", "\n the", "", "", "é the", "", "", "\u{fffd}\u{fffd} the", ""];
    assert_eq!(pieces(&mut stream, &ids), expected, "a run of bytes of which one is invalid has no valid ones");
    assert_eq!(pieces(&mut stream, &[the, byte(b'\n')]), ["the", "", "\n"]);
}

#[test]
fn leading_spaces_are_those_of_the_whole_text() {
    let tokenizer = llama();
    let id = |token: &str| i64::from(tokenizer.encoder.token_to_id(token).unwrap());
    let mut stream = DecodeStream::new(Arc::clone(&tokenizer), true);
    let ids = [id("<s>"), id("▁"), id("▁the"), id("▁"), id("▁the"), id("</s>"), id("▁the")];
    assert_eq!(pieces(&mut stream, &ids).concat(), " the  the the");
    assert_eq!(pieces(&mut stream, &ids), ["", "", " the", " ", " the", "", " the", ""]);
}

#[test]
fn what_is_no_token_is_an_error_and_changes_nothing() {
    let tokenizer = fixture("words");
    let mut stream = DecodeStream::new(Arc::clone(&tokenizer), false);
    let before = stream.step(5).unwrap();
    assert_eq!(stream.step(-1).unwrap_err().to_string(), "-1 is not a token id");
    assert_eq!(stream.step(1 << 32).unwrap_err().to_string(), "4294967296 is not a token id");
    assert_eq!(
        before + &stream.step(6).unwrap() + &stream.finish().unwrap(),
        tokenizer.decode(&[5, 6], false).unwrap()
    );
}

#[test]
fn a_decoder_that_changes_earlier_text_is_an_error() {
    let replace = json!({"type": "Replace", "pattern": {"String": "ab"}, "content": "xyz"});
    let tokenizer = of_decoder(&sequence(&[json!({"type": "Fuse"}), replace]), false);
    let ids = ["a", "b"].map(|token| i64::from(tokenizer.encoder.token_to_id(token).unwrap()));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "xyz");
    let mut stream = DecodeStream::new(tokenizer, false);
    assert_eq!(stream.step(ids[0]).unwrap(), "a");
    let message = stream.step(ids[1]).unwrap_err().to_string();
    assert!(message.contains(": decoding token by token fails: "), "{message}");
}
