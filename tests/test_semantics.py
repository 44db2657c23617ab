"""Every promise in docs/semantics.md is held to by tests, and this page says by which."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: The first words of each promise, and tests that fail when it is broken.
HELD_BY = {
    "A block is zero, and an object absent": [
        "bucket/test_objects.py::test_not_found_of_a_load_balancer",
        "bucket/test_objects.py::test_head_says_not_found_and_get_has_it",
        "bucket/test_objects.py::test_a_store_that_is_away_behind_its_load_balancer",
    ],
    "When `fsync`, `fdatasync`, `close`, `flush` or `umount` returns": [
        "cache/test_block_cache.py::test_flush_waits_for_uploads_already_under_way",
        "cache/test_block_cache.py::test_flush_waits_for_a_rewrite_during_the_upload",
        "e2e/test_faults.py::test_kill_under_load",
    ],
    "With `--durability journal` a flush returns": [
        "disk/test_journaling.py::test_a_flush_waits_for_the_journal_only",
        "disk/test_journaling.py::test_what_was_flushed_survives_a_kill",
        "disk/test_journaling.py::test_random_kills_and_power_cuts",
    ],
    "A pending journal is known to the bucket": [
        "disk/test_pending_journal.py::test_an_attach_without_the_directory_is_refused",
        "disk/test_pending_journal.py::test_the_other_durability_replays_it_first",
        "disk/test_pending_journal.py::test_a_read_only_attach_shows_it",
        "disk/test_pending_journal.py::test_another_directory_in_its_place_is_refused",
        "disk/test_pending_journal.py::test_repair_and_resize_and_erase_ask_first",
        "disk/test_pending_journal.py::test_unlock_keeps_the_journal_pending",
    ],
    "The journal of an encrypted volume is encrypted": [
        "disk/test_journaling.py::test_the_journal_of_an_encrypted_volume_does_not_tell_what_was_written",
        "disk/test_journaling.py::test_nothing_that_was_written_stays_in_a_journal_after_the_end",
        "cache/test_sealed_journal.py::test_what_was_changed_is_refused_although_its_checksums_are_right",
        "cache/test_sealed_journal.py::test_no_nonce_comes_back",
    ],
    "A journal is never replayed": [
        "disk/test_pending_journal.py::test_an_older_copy_of_the_directory_is_refused",
        "disk/test_pending_journal.py::test_a_copy_of_the_volume_does_not_take_the_journal",
        "disk/test_pending_journal.py::test_after_a_restore_of_the_bucket_nothing_kept_locally_is_believed",
        "disk/test_journaling.py::test_a_journal_is_not_replayed_over_somebody_elses_writes",
        "disk/test_journaling.py::test_nor_over_an_s3backers",
        "disk/test_journaling.py::test_nor_into_another_volume",
    ],
    "A flush is a barrier": [
        "cache/test_block_cache.py::test_a_later_epoch_waits_for_the_earlier_one",
        "cache/test_block_cache.py::test_a_block_rewritten_in_a_later_epoch_keeps_its_older_version_until_then",
        "core/test_block_table.py::test_random_histories",
    ],
    "A block is replaced as a whole": [
        "bucket/test_directory.py::test_kill_pairs_nothing_wrong",
        "cache/test_block_cache.py::test_a_rewrite_before_the_upload_has_begun_is_not_part_of_it",
    ],
    "A write that cannot be uploaded is never dropped": [
        "cache/test_block_cache.py::test_a_failed_upload_is_reported_by_the_flush_and_kept",
        "cache/test_block_cache.py::test_a_background_failure_heals_by_itself",
    ],
    "Credentials may be replaced while": [
        "e2e/test_credentials.py::test_keys_are_replaced_under_fio",
        "e2e/test_credentials.py::test_keys_are_replaced_under_a_filesystem",
        "bucket/test_credentials.py::test_every_request_goes_on_with_new_keys",
    ],
    "`bucketry umount` returns 0 only when": [
        "e2e/test_commands.py::test_attach_shows_the_disk_and_umount_brings_it_into_the_bucket",
        "cache/test_block_cache.py::test_a_close_that_cannot_flush_can_be_tried_again",
    ],
    "However a disk is unmounted": [
        "e2e/test_unmounting.py::test_a_lazily_unmounted_disk_with_an_open_file",
        "e2e/test_unmounting.py::test_umount8_of_a_filesystem_ends_the_disk_in_order",
        "e2e/test_unmounting.py::test_a_filesystem_that_another_namespace_still_has",
    ],
    "A write into a block that cannot be read": [
        "cache/test_block_cache.py::test_a_damaged_block_is_told_once_to_each_who_flushes",
        "e2e/test_unmounting.py::test_damaged_blocks_of_an_attached_disk_are_given_up",
        "cache/test_block_cache.py::test_a_damaged_block_holds_up_nothing_else_and_can_be_replaced",
        "cache/test_block_cache.py::test_a_damaged_block_that_was_mended_gets_its_write",
    ],
    "A block comes back as it was last written": [
        "cache/test_block_cache.py::test_a_load_that_an_upload_overtook_is_not_believed",
        "cache/test_block_cache.py::test_a_reader_gets_what_was_written_before_it_asked",
        "disk/test_disk.py::test_concurrent_operations_agree_with_an_array_of_bytes",
        "e2e/test_faults.py::test_damaged_objects",
        "layout/test_s3backer.py::test_an_object_in_another_ones_place_is_not_read",
        "cache/test_disk_cache.py::test_objects_exchanged_in_the_bucket_are_noticed",
    ],
    "A block kept on local disk": [
        "cache/test_disk_cache.py::test_what_changed_behind_our_back_is_seen",
        "cache/test_disk_cache.py::test_damaged_files_are_never_believed",
    ],
    "An absent object reads as zeros": ["disk/test_disk.py::test_a_new_disk_is_zeros_and_a_hole"],
    "A volume that is attached for writing is refused": [
        "disk/test_lifecycle.py::test_a_second_writer_is_refused_and_a_reader_is_not",
        "disk/test_lease_keeper.py::test_of_several_that_take_it_at_once_one_wins",
    ],
    "A holder that cannot renew its lease": [
        "disk/test_lease_keeper.py::test_a_holder_that_cannot_renew_stops_and_goes_on_afterwards",
        "disk/test_lease_keeper.py::test_a_dead_holders_lease_is_taken_after_watching_it_and_he_had_stopped",
    ],
    "A volume that is taken by force is not written": [
        "disk/test_takeover.py::test_nothing_is_written_until_the_former_holder_must_have_stopped",
        "disk/test_takeover.py::test_whoever_takes_it_from_one_who_still_waits_waits_as_well",
        "disk/test_takeover.py::test_one_who_gives_up_waiting_leaves_word_of_it",
        "crash/test_takeover.py::test_a_stopped_writer_that_goes_on_changes_nothing",
    ],
    "In a directory (`file://`) nothing of a former holder": [
        "bucket/test_directory_owner.py::test_what_was_under_way_when_the_owner_changed_is_not_done",
        "bucket/test_directory_owner.py::test_nothing_of_somebody_elses_is_changed",
        "crash/test_takeover.py::test_a_stopped_writer_that_goes_on_changes_nothing",
    ],
    "When an s3backer takes an attached volume": [
        "disk/test_takeover.py::test_an_s3backer_that_takes_the_volume_is_noticed",
    ],
    "Read-only attachments are always allowed": [
        "disk/test_disk.py::test_a_read_only_disk_refuses_every_change",
        "disk/test_lifecycle.py::test_a_second_writer_is_refused_and_a_reader_is_not",
    ],
    "A disk that grows while it is in use": [
        "disk/test_grow.py::test_a_crash_at_any_request_leaves_a_volume_that_opens",
        "disk/test_grow.py::test_it_grows_under_writes",
        "e2e/test_grow.py::test_a_mounted_filesystem_grows_under_load",
    ],
    "`bucketry mount --read-only` replays no journal": [
        "serve/test_loop_mount.py::test_each_filesystem_is_mounted_read_only_as_a_crash_leaves_it",
    ],
    "`bucketry resize` never deletes": [
        "disk/test_resize.py::test_shrinking_refuses_to_cut_live_data",
        "disk/test_resize.py::test_a_crash_at_any_request_leaves_a_volume_that_opens",
    ],
    "While superblock and block 0 disagree": [
        "disk/test_resize.py::test_what_s3backer_wrote_after_it_made_the_volume_larger_is_kept",
        "disk/test_check.py::test_a_larger_size_on_block_0_is_left_to_the_user",
        "e2e/test_check_and_resize.py::test_what_s3backer_wrote_after_growing_a_volume_of_ours_is_kept",
    ],
    "`bucketry erase` deletes the blocks of one volume": [
        "disk/test_lifecycle.py::test_erasing_leaves_blocks_of_the_other_kind_of_names",
        "disk/test_lifecycle.py::test_of_two_volumes_in_one_prefix_only_the_one_that_is_named_is_erased",
    ],
    "`bucketry check` reads every stored block": [
        "disk/test_check.py::test_one_wrong_bit_in_any_block_is_found",
        "disk/test_check.py::test_a_dry_run_tells_everything_and_changes_nothing",
    ],
    "`bucketry check --repair` loses nothing": [
        "disk/test_check.py::test_repair_puts_right_what_loses_nothing",
        "disk/test_check.py::test_a_crash_while_repairing_loses_nothing",
    ],
    "No size of blocks is guessed": [
        "layout/test_volume.py::test_a_block_is_decoded_to_tell_the_block_size",
        "layout/test_volume.py::test_force_does_not_change_the_size_of_blocks_that_are_stored",
    ],
    "`bucketry import` returns 0 only when": [
        "serve/test_images.py::test_a_stream_that_ends_early_is_no_image",
        "serve/test_images.py::test_a_file_that_changes_its_size_meanwhile_is_no_image",
        "serve/test_images.py::test_a_failed_upload_is_not_a_success",
        "e2e/test_commands.py::test_a_stream_that_ends_early_is_not_imported_as_complete",
    ],
    "A wrong password is refused": [
        "disk/test_lifecycle.py::test_a_wrong_password_is_refused_before_anything_is_written",
        "cli/test_passwords.py::test_a_password_is_verified_wherever_it_is_given",
        "layout/test_volume.py::test_a_wrong_password_is_noticed_on_any_block",
        "layout/test_volume.py::test_one_damaged_block_0_does_not_lock_the_volume",
    ],
    "When `flush` of a file returns": [
        "files/test_upload.py::test_a_lasting_failure_at_any_step_leaves_nothing",
        "files/test_upload.py::test_a_cancellation_at_any_moment_leaves_nothing_or_all",
        "files/test_upload.py::test_an_outage_at_any_moment_and_then_another_try",
    ],
    "A file in the bucket is never replaced": [
        "files/test_upload.py::test_the_same_content_again_is_success_and_another_is_not",
        "files/test_upload.py::test_of_sixteen_that_upload_different_things_one_wins",
        "files/test_upload_conditions.py::test_a_file_is_not_replaced",
        "e2e/test_stores.py::test_files",
    ],
    "A flush says “no such file”": [
        "files/test_upload_real.py::test_a_missing_bucket_is_no_missing_file",
        "files/test_storage_source.py::test_a_flush_is_never_wrong_about_the_local_file",
    ],
    "A read gives all the bytes": [
        "files/test_object_reader.py::test_random_reads_agree_with_the_bytes",
        "files/test_object_reader.py::test_a_handle_keeps_its_version",
        "files/test_object_reader.py::test_damage_in_the_bucket_is_an_error",
    ],
    "A damaged, full or missing cache": [
        "files/test_object_reader.py::test_damage_in_the_cache_is_a_miss",
        "files/test_object_reader.py::test_a_full_disk",
    ],
    "Handles, file systems and sources": [
        "files/test_storage_source.py::test_termination_does_not_wait_for_a_store_that_hangs",
        "files/test_storage_source.py::test_everything_is_ended_while_everybody_works",
        "threads/test_loop_thread.py::test_a_cancelled_call_has_ended_when_its_caller_goes_on",
    ],
}


def promises() -> list[str]:
    """The sentences set in bold, each on one line."""
    page = (ROOT / "docs" / "semantics.md").read_text().split("## ", 1)[1]
    return [" ".join(text.split()) for text in re.findall(r"^\*\*(.+?)\*\*", page, re.MULTILINE | re.DOTALL)]


def test_every_promise_has_its_tests() -> None:
    """A promise that is added, dropped or reworded has to be looked at here."""
    found = promises()
    assert len(found) == len(HELD_BY)
    for promise in found:
        assert sum(promise.startswith(words) for words in HELD_BY) == 1, promise


@pytest.mark.parametrize("test", sorted({test for tests in HELD_BY.values() for test in tests}))
def test_the_tests_exist(test: str) -> None:
    """Nothing is held to by a test that is gone."""
    file, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / "tests" / file).read_text(), re.MULTILINE)
