"""One sabotage for each safety claim: where the code keeps it, and which tests see it broken.

A sabotage is a replacement of exact text and not a patch with line numbers, so it stays
applicable when code around it moves; where the text itself has changed, the runner says so.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """A safety claim and its sabotage.

    Attributes:
        name: Names it on the command line.
        claim: What an operator may rely on.
        file: The file that keeps it.
        old: Text that stands in it exactly once.
        new: What breaks the claim.
        tests: pytest's ids without parameters; each of them has to fail.
    """

    name: str
    claim: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


TRANSFER = "tests/transfer/test_transfer.py::"
CHECKOUT = "tests/replicas/files/test_checkout.py::"
COLLECT = "tests/sync/test_collect.py::"
ENGINES = "tests/tables/test_engines.py::"
LOSSES = "tests/tables/test_losses.py::"

CLAIMS = (
    # --- Objects and the store
    Claim(
        "read-unhashed",
        "What is read from the store is hashed: damaged bytes are never returned.",
        "gsync/store/bodies.py",
        "if object_id(kind, body) != oid:",
        "if len(body) != place.size:",
        (
            "tests/store/test_sqlite.py::test_every_flipped_byte_is_found",
            "tests/cli/test_errors.py::test_flipped_byte",
        ),
    ),
    Claim(
        "verify-unhashed",
        "`verify` hashes every body: it names each one that is damaged.",
        "gsync/store/upkeep.py",
        "elif object_id(Kind(kind), bodies[offset : offset + size]) != oid:",
        "elif len(bodies) < offset + size:",
        ("tests/store/test_sqlite.py::test_every_flipped_byte_is_found",),
    ),
    Claim(
        "decode-loosely",
        "Bytes that are not the one encoding of their value are refused.",
        "gsync/objects/encoding.py",
        "if again != body:",
        "if len(again) > len(body):",
        ("tests/test_vectors.py::test_refused",),
    ),
    Claim(
        "no-flush",
        "Objects are in the file before a ref names them.",
        "gsync/store/names.py",
        'self.flush()\n        with self._writing("moving refs")',
        'with self._writing("moving refs")',
        (COLLECT + "test_objects_are_in_the_file_when_a_ref_has_moved",),
    ),
    Claim(
        "no-fsync-store",
        "A commit of the store is on the disk before anybody is told of it.",
        "gsync/store/file.py",
        "PRAGMA synchronous = FULL",
        "PRAGMA synchronous = OFF",
        ("tests/store/test_sqlite.py::test_commits_are_synchronous",),
    ),
    Claim(
        "no-swap",
        "A ref moves only from where its mover last saw it.",
        "gsync/store/names.py",
        "if refs.get(move.name) != move.old:",
        "if move.name not in refs and move.old:",
        ("tests/store/test_store_contract.py::test_refs_move_by_compare_and_swap",),
    ),
    Claim(
        "log-rewritten",
        "A remote whose log does not go on from the one seen before stops fetch, pull and push.",
        "gsync/sync/exchange.py",
        "check_chain(entries, kept)\n        if (welcome.head or (0, bytes(32)))"
        " != ((last.seq, last.hash) if last else (0, bytes(32))):",
        "if False:",
        ("tests/cli/test_exchange.py::test_history_rewritten",),
    ),
    Claim(
        "chain-unlinked",
        "Every entry of a ref log holds the hash of the one before.",
        "gsync/store/reflog.py",
        "if entry.seq != seq + 1 or entry.prev != prev:",
        "if entry.seq != seq + 1:",
        ("tests/store/test_reflog.py::test_an_altered_entry_breaks_the_chain",),
    ),
    Claim(
        "collected-meanwhile",
        "No ref moves to objects that a collection may have dropped since they were put.",
        "gsync/store/names.py",
        'if seen is not None and self._counter("collections") != seen:',
        'if seen is not None and self._counter("collections") < seen:',
        ("tests/store/test_sqlite.py::test_collection_cannot_race_a_writer",),
    ),
    # --- Maps
    Claim(
        "map-splits",
        "A received map is split as building it would: a node that goes on too long is refused.",
        "gsync/maps/check.py",
        "if is_end and index < len(node.keys) - 1:",
        "if is_end and index > len(node.keys) - 1:",
        ("tests/maps/test_check.py::test_leaf_that_goes_on_too_long",),
    ),
    Claim(
        "map-ends",
        "A received node that ends where no node ends is refused.",
        "gsync/maps/check.py",
        "if not is_end and index == len(node.keys) - 1 and not is_last:",
        "if not is_end and index > len(node.keys) - 1 and not is_last:",
        ("tests/maps/test_check.py::test_last_leaf_reused_in_the_middle",),
    ),
    Claim(
        "map-order",
        "Keys of a received map rise across its nodes.",
        "gsync/maps/check.py",
        "if leaf.keys and leaf.keys[0] <= above:",
        "if leaf.keys and not above <= above:",
        (
            "tests/maps/test_check.py::test_keys_that_overlap_under_one_parent",
            "tests/maps/test_check.py::test_keys_that_overlap_across_parents",
        ),
    ),
    Claim(
        "map-totals",
        "The totals that a received node gives for its children are theirs.",
        "gsync/maps/check.py",
        "if _totals(child) != (node.rows[index], node.sizes[index], node.keys[index]):",
        "if _totals(child)[2] != node.keys[index]:",
        ("tests/maps/test_check.py::test_what_a_parent_says_of_a_known_child",),
    ),
    Claim(
        "levels-unchecked",
        "Nodes that come by id are checked as a map before a manifest is kept.",
        "gsync/transfer/negotiate.py",
        "check_received_map(store, oid, received)",
        "pass",
        (TRANSFER + "test_nodes_by_id_make_a_map_as_building_would",),
    ),
    # --- Receiving
    Claim(
        "unasked-objects",
        "Bodies that come by id are hashed: one that was not asked for is refused.",
        "gsync/transfer/negotiate.py",
        "if oid not in owed:",
        "if oid is None:",
        (TRANSFER + "test_another_body_than_the_one_asked_for_is_refused",),
    ),
    Claim(
        "nodes-in-streams",
        "A stream brings no map nodes, only patches that make maps right.",
        "gsync/transfer/receive.py",
        "if kind is Kind.NODE and not self._by_level:",
        "if kind is Kind.NODE and self._by_level is None:",
        (TRANSFER + "test_nodes_in_a_stream_are_refused",),
    ),
    Claim(
        "patch-root",
        "A patch that does not lead to its root is refused.",
        "gsync/transfer/receive.py",
        "if patch.target not in (None, root):",
        "if patch.target not in (None, root, patch.target):",
        (TRANSFER + "test_patch_that_does_not_lead_to_its_root_is_refused",),
    ),
    Claim(
        "cells-unfounded",
        "Cells for a key that the base of a patch does not have are refused.",
        "gsync/transfer/receive.py",
        'raise Invalid(f"patch: cells for key {key!r}, which its base does not have")',
        'old = b"\\x90"',
        ("tests/transfer/test_cells.py::test_refused_cells",),
    ),
    Claim(
        "cells-flood",
        "Cells cannot make more bytes than a patch may bring.",
        "gsync/transfer/receive.py",
        "if whole > PATCH_BYTES_MAX:",
        "if whole < 0:",
        ("tests/transfer/test_cells.py::test_cells_make_no_flood",),
    ),
    Claim(
        "no-closure",
        "A manifest is kept only when everything below it is there.",
        "gsync/transfer/receive.py",
        "check_closure(self._store, manifest, self.forgotten)",
        "pass",
        (
            TRANSFER + "test_left_out_contents_are_noticed",
            TRANSFER + "test_wrong_counts_lengths_and_kinds_are_refused",
        ),
    ),
    Claim(
        "have-everything",
        "Contents that are not here are not taken for present.",
        "gsync/transfer/receive.py",
        "        size = sizes.get(oid)\n",
        "        size = sizes.get(oid, ref.length)\n",
        (TRANSFER + "test_left_out_contents_are_noticed",),
    ),
    Claim(
        "unreadable-tables",
        "A table comes in with a schema and a view that decode, or not at all.",
        "gsync/transfer/receive.py",
        "    _check_schema(store, old, new)\n",
        "",
        (TRANSFER + "test_tables_that_nobody_could_read_are_refused",),
    ),
    Claim(
        "cut-stream",
        "A stream that ends without its end frame is not taken for whole.",
        "gsync/transfer/negotiate.py",
        'raise StreamBroken(f"the stream was cut off after {count} frames")\n\n\n'
        "def fetch_by_level",
        "return count\n\n\ndef fetch_by_level",
        (TRANSFER + "test_cut_streams_and_long_frames_are_refused",),
    ),
    Claim(
        "bomb",
        "A compressed frame that announces more than may come is not unpacked.",
        "gsync/objects/packs.py",
        "if not 0 <= announced <= bytes_max:",
        "if not 0 <= announced:",
        ("tests/objects/test_packs.py::test_a_bomb_is_refused_before_it_is_unpacked",),
    ),
    Claim(
        "forgotten-by-peer",
        "A peer cannot mark manifests as forgotten that are here.",
        "gsync/transfer/receive.py",
        "self.forgotten |= self._store.missing(absent & parents)",
        "self.forgotten |= absent",
        (TRANSFER + "test_a_peer_marks_nothing_as_forgotten_that_is_here",),
    ),
    # --- The server
    Claim(
        "rewind-main",
        "The server refuses a push that is not a descendant of what it has.",
        "gsync/transfer/answer.py",
        'if name == "main" and (new is None or (old and not is_ancestor(self._store, old, new))):',
        'if name == "main" and new is None:',
        (TRANSFER + "test_push_moves_the_ref_by_compare_and_swap",),
    ),
    Claim(
        "move-tags",
        "A tag that exists is never moved by a push.",
        "gsync/transfer/answer.py",
        'if name.startswith("tags/") and old is not None and new is not None:',
        'if name.startswith("tags/") and old is None and new is None:',
        (TRANSFER + "test_a_push_moves_no_tag",),
    ),
    Claim(
        "push-twice",
        "A push whose answer was lost succeeds when it is repeated, and moves nothing twice.",
        "gsync/transfer/answer.py",
        "        if done:\n            return done\n",
        "",
        (TRANSFER + "test_a_push_in_parts_arrives_whole",),
    ),
    Claim(
        "resume-from-zero",
        "Frames that arrived before a cut are not asked for again.",
        "gsync/transfer/answer.py",
        "return self._store.frames_of(session)",
        "return set()",
        (TRANSFER + "test_frames_that_arrived_are_held",),
    ),
    Claim(
        "any-tenant",
        "A token opens the store of its tenant and no other.",
        "gsync/server/auth.py",
        "if found is None or not theirs or not found.is_valid(self._now_us()):",
        "if found is None or not found.is_valid(self._now_us()):",
        ("tests/server/test_auth.py::test_every_wrong_credential_gets_the_same_answer",),
    ),
    Claim(
        "revoked-token",
        "A token that was revoked or has expired opens nothing.",
        "gsync/server/auth.py",
        "if found is None or not theirs or not found.is_valid(self._now_us()):",
        "if found is None or not theirs:",
        ("tests/server/test_auth.py::test_a_token_is_valid_until_it_expires_or_is_revoked",),
    ),
    Claim(
        "shared-store",
        "What one tenant pushed is not there for another, even by id.",
        "gsync/server/tenants.py",
        'path = self._root / tenant / "store.db"',
        'path = self._root / "all" / "store.db"',
        ("tests/server/test_auth.py::test_no_tenant_sees_another",),
    ),
    Claim(
        "readers-write",
        "A token of scope `read` cannot push.",
        "gsync/server/auth.py",
        "if SCOPES.index(self.scope) < SCOPES.index(needed):",
        "if self.scope not in SCOPES:",
        (
            "tests/server/test_auth.py::test_scopes_are_ordered",
            "tests/server/test_auth.py::test_a_reader_cannot_push",
        ),
    ),
    # --- Files
    Claim(
        "paths-escape",
        "No path leaves its folder: `..` and absolute ones are refused.",
        "gsync/paths.py",
        'if component in (b"", b".", b".."):',
        'if component == b".":',
        (
            TRANSFER + "test_escaping_paths_are_refused",
            "tests/test_tarball.py::test_hostile_archives_are_refused",
        ),
    ),
    Claim(
        "paths-own",
        "No path leads into `.gsync`, in any spelling.",
        "gsync/paths.py",
        "        if _is_reserved(component):",
        "        if _is_reserved(component) and not component:",
        (
            TRANSFER + "test_escaping_paths_are_refused",
            "tests/test_tarball.py::test_hostile_archives_are_refused",
        ),
    ),
    Claim(
        "paths-received",
        "The paths of a received tree are checked, also those that a later manifest adds.",
        "gsync/views/files.py",
        "                check_path(change.key)\n",
        "",
        (TRANSFER + "test_an_escaping_path_that_is_added_is_refused",),
    ),
    Claim(
        "paths-in-tarballs",
        "A path in an archive is checked before anything is written.",
        "gsync/tarball/read.py",
        "        check_path(path)\n",
        "        pass\n",
        ("tests/test_tarball.py::test_hostile_archives_are_refused",),
    ),
    Claim(
        "follow-links",
        "Checkout follows no link: nothing is written outside of the folder.",
        "gsync/replicas/files/checkout.py",
        "_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        (CHECKOUT + "test_planted_link_leads_nowhere",),
    ),
    Claim(
        "overwrite-unsaved",
        "Checkout overwrites no file that is not as it was recorded.",
        "gsync/replicas/files/checkout.py",
        "        raise ReplicaChanged(differing)\n",
        "        pass\n",
        (CHECKOUT + "test_unsaved_changes_are_refused_and_listed",),
    ),
    Claim(
        "overwrite-untracked",
        "Checkout deletes no file that it does not know.",
        "gsync/replicas/files/checkout.py",
        "    if blocked:\n",
        "    if blocked and not removed and not changes:\n",
        (CHECKOUT + "test_untracked_files_are_never_deleted",),
    ),
    Claim(
        "overwrite-late-edit",
        "An edit between checkout's look and its swap is not overwritten.",
        "gsync/replicas/files/checkout.py",
        "            if moved:  # staging may take long\n",
        "            if moved and not ordered:\n",
        (CHECKOUT + "test_change_during_staging_is_refused",),
    ),
    Claim(
        "checkout-unhashed",
        "Bytes that do not hash to their id never reach the folder.",
        "gsync/replicas/files/checkout.py",
        "if blob_id(body) != oid:",
        "if not oid:",
        (CHECKOUT + "test_damaged_content_is_refused",),
    ),
    Claim(
        "no-undo",
        "A checkout that the file system refuses halfway leaves the folder as it was.",
        "gsync/replicas/files/checkout.py",
        "            _undo(folder, stage, plan)\n",
        "",
        (CHECKOUT + "test_a_failed_step_is_undone",),
    ),
    Claim(
        "no-recovery",
        "A checkout that was killed is finished at the next start.",
        "gsync/replicas/files/checkout.py",
        "                _carry_out(folder, stage, plan)\n                _rescue(",
        "                _rescue(",
        (
            CHECKOUT + "test_kill_leaves_old_or_new",
            CHECKOUT + "test_recover_can_itself_be_interrupted",
        ),
    ),
    Claim(
        "no-rescue",
        "An edit between a crash and the recovery is kept.",
        "gsync/replicas/files/checkout.py",
        "            if found != expected.get(int(number)):\n",
        "            if not found:\n",
        (
            "tests/replicas/files/test_recover_edit.py"
            "::test_an_edit_between_crash_and_recovery_is_rescued",
        ),
    ),
    Claim(
        "no-fsync-journal",
        "A checkout's journal is on the disk before anything moves.",
        "gsync/replicas/files/checkout.py",
        "        os.fsync(file.fileno())\n",
        "",
        (CHECKOUT + "test_what_the_journal_tells_of_is_durable_first",),
    ),
    Claim(
        "no-fsync-stage",
        "New contents are on the disk before the journal says that they may be moved in.",
        "gsync/replicas/files/checkout.py",
        "        if fsync:\n            os.fsync(fd)\n",
        "",
        (CHECKOUT + "test_what_the_journal_tells_of_is_durable_first",),
    ),
    Claim(
        "secrets-let-in",
        "A file that looks like a secret is held back unless a rule names it.",
        "gsync/replicas/files/ignore.py",
        "return Verdict.SECRET if is_secret_name(name) and not deliberate else None",
        "return None",
        (
            "tests/replicas/files/test_scan.py::test_rules",
            "tests/replicas/files/test_scan.py::test_secrets_are_noticed_until_included",
        ),
    ),
    Claim(
        "tracked-ignored",
        "A tracked path stays tracked, whatever the ignore rules say.",
        "gsync/replicas/files/scan.py",
        "if name not in base and not (is_known and type(value) is bytes):",
        "if not (is_known and type(value) is bytes):",
        ("tests/replicas/files/test_scan.py::test_a_tracked_path_stays_tracked",),
    ),
    Claim(
        "unreadable-deleted",
        "A file that cannot be read is an error and no deletion.",
        "gsync/replicas/files/scan.py",
        'self._unreadable.append(directory or b".")',
        "pass",
        ("tests/replicas/files/test_scan.py::test_unreadable_is_an_error_and_no_deletion",),
    ),
    Claim(
        "unreadable-below-excluded",
        "A tracked path below an excluded directory that cannot be entered is not deleted.",
        "gsync/replicas/files/scan.py",
        "                except OSError:\n                    self._unreadable.append(directory)\n",
        "                except OSError:\n                    pass\n",
        ("tests/replicas/files/test_scan.py::test_unreadable_below_an_excluded_directory",),
    ),
    # --- Collecting
    Claim(
        "gc-leases",
        "Garbage collection keeps what a push was told to leave out.",
        "gsync/sync/maintenance.py",
        "set(store.list_refs().values()) | store.leased(now_us)",
        "set(store.list_refs().values())",
        (COLLECT + "test_a_leased_manifest_stays_with_all_below_it",),
    ),
    Claim(
        "gc-floor",
        "Garbage collection keeps what came during a push that is not over.",
        "gsync/store/upkeep.py",
        "last = min(last, floors[0][0])",
        "pass",
        (COLLECT + "test_what_came_in_an_open_session_stays",),
    ),
    Claim(
        "gc-tracking",
        "Garbage collection keeps what remotes were last seen at.",
        "gsync/sync/maintenance.py",
        "        roots |= set(store.tracking(remote).values())\n    return roots",
        "        pass\n    return roots",
        (COLLECT + "test_what_a_remote_was_last_seen_at_stays",),
    ),
    Claim(
        "gc-bases",
        "Garbage collection keeps what stored differences are made against.",
        "gsync/store/upkeep.py",
        "bases = self._revive_bases()",
        "bases = 0",
        ("tests/store/test_sqlite.py::test_collection_keeps_bases",),
    ),
    # --- Merge
    Claim(
        "merge-drops-deletes",
        "A deletion on one side travels to the other.",
        "gsync/maps/merge.py",
        "        if mine is None or mine.key != other.key:\n            yield other\n",
        "        if mine is None or mine.key != other.key:\n"
        "            if other.new is not None:\n                yield other\n",
        (
            "tests/maps/test_merge.py::test_deletes_travel",
            "tests/cli/test_merge.py::test_independent_edits_combine",
        ),
    ),
    Claim(
        "merge-ignores-base",
        "What we alone changed is not taken back by a merge.",
        "gsync/maps/merge.py",
        "left, right = diff_maps(store, base, ours), diff_maps(store, base, theirs)",
        "left, right = diff_maps(store, base, ours), diff_maps(store, ours, theirs)",
        ("tests/cli/test_merge.py::test_independent_edits_combine",),
    ),
    Claim(
        "merge-theirs-wins",
        "Two edits of one file that do not go together are a conflict, and nobody's is lost.",
        "gsync/views/mergefiles.py",
        '            return Combined(None, "add/add" if base is None else "edit/edit")\n'
        "        was =",
        "            return Combined(theirs)\n        was =",
        (
            "tests/views/test_mergefiles.py::test_cases",
            "tests/cli/test_merge.py::test_conflicts_are_data_and_touch_nothing",
        ),
    ),
    Claim(
        "merge-edit-deleted",
        "An edit against a deletion is a conflict, and the edit is not lost.",
        "gsync/views/mergefiles.py",
        'return Combined(None, "delete/edit" if ours is None else "edit/delete")',
        "return Combined(None)",
        ("tests/views/test_mergefiles.py::test_cases",),
    ),
    Claim(
        "merge-cells",
        "Two edits of one cell are a conflict.",
        "gsync/views/rows/merge.py",
        "return ours if _equal(type_, base, theirs) else _ABSENT",
        "return theirs",
        ("tests/views/rows/test_rowmerge.py::test_cases",),
    ),
    # --- Rows
    Claim(
        "rows-overwritten",
        "A live row that is not as it was recorded is not overwritten.",
        "gsync/replicas/tables/apply.py",
        "        _stop_on_changed(found, database.shown)\n",
        "",
        (LOSSES + "test_an_edit_stops_a_deletion_where_the_mark_is_gone",),
    ),
    Claim(
        "rows-unproved",
        "Rows are read again before the commit: what a trigger altered is rolled back.",
        "gsync/replicas/tables/apply.py",
        "            _prove(writing, meant, store)\n",
        "            pass\n",
        (ENGINES + "test_a_trigger_that_alters_a_cell_is_found_and_undone",),
    ),
    Claim(
        "rows-unprotected",
        "Protected columns and rows change only when that is accepted by name.",
        "gsync/replicas/tables/apply.py",
        "        _stop_on_protected(found, accept)\n",
        "",
        (LOSSES + "test_protection_is_not_taken_away_by_what_it_protects_from",),
    ),
    Claim(
        "rows-new-tables",
        "A table that was not recorded here is not written unless that is accepted by name.",
        "gsync/replicas/tables/apply.py",
        "        if self._is_new:\n",
        "        if self._is_new is None:\n",
        (LOSSES + "test_a_table_that_was_not_recorded_here_is_not_written",),
    ),
    Claim(
        "rows-clash",
        "A unique value that another row holds is named, with both rows, before anything is"
        " written.",
        "gsync/replicas/tables/apply.py",
        "        _stop_on_clash(writing.clashes(meant.plan, ROWS_SHOWN_MAX))\n",
        "        pass\n",
        (LOSSES + "test_a_unique_value_that_is_taken_names_both_rows",),
    ),
    Claim(
        "rows-unchecked",
        "A row that no database gave, from a peer that lies, is refused before it is written.",
        "gsync/replicas/tables/apply.py",
        "        check(change.key, change.new)\n",
        "",
        (ENGINES + "test_rows_that_no_database_gave_are_refused",),
    ),
    Claim(
        "rows-dragged",
        "A deletion takes no unrecorded rows along unless that is accepted by name.",
        "gsync/replicas/tables/apply.py",
        "    if not unseen:\n        return\n",
        "    if unseen is not None:\n        return\n",
        (LOSSES + "test_rows_that_no_manifest_has_stop_a_cascade",),
    ),
    Claim(
        "rows-schema",
        "A live table that is not as it was recorded is not written.",
        "gsync/replicas/tables/apply.py",
        "if not is_compatible(recorded, plan.schema):",
        "if recorded is None:",
        ("tests/sync/test_pairs.py::test_tables_that_are_not_alike_are_refused",),
    ),
    Claim(
        "rows-not-at-head",
        "A database that was never brought to HEAD is not recorded over it.",
        "gsync/sync/tables.py",
        "if old is not None and mark != old.root and found.root != old.root:",
        "if old is not None and mark == b'' and found.root != old.root:",
        ("tests/cli/test_databases.py::test_tables_travel_from_one_database_to_another_and_back",),
    ),
    Claim(
        "rows-emptied",
        "A table that lost all its rows is not recorded unless that is accepted by name.",
        "gsync/sync/tables.py",
        "if old is not None and old.count and not new.count and table not in accept:",
        "if old is not None and old.count < 0 and table not in accept:",
        (LOSSES + "test_a_database_that_was_made_anew_is_not_recorded_as_emptied",),
    ),
    Claim(
        "rows-spill",
        "One row has one form: cells are kept apart as the rule says, and no other is read.",
        "gsync/views/rows/values.py",
        "        _check_spill(cells, len(body))\n",
        "        pass\n",
        ("tests/views/rows/test_codec.py::test_rows_that_spill_otherwise_are_refused",),
    ),
    Claim(
        "rows-key-order",
        "Keys sort as their values do.",
        "gsync/views/rows/keys.py",
        "return bytes([_NUMERIC, _NEGATIVE]) + body.translate(_COMPLEMENT)",
        "return bytes([_NUMERIC, _NEGATIVE]) + body",
        ("tests/views/rows/test_codec.py::test_keys_read_back_and_sort_as_values",),
    ),
    Claim(
        "rows-coarse",
        "A change that SQL takes for none, as of 1.0 to 1.00, is written to Postgres.",
        "gsync/replicas/postgres/write.py",
        "{sql.fine(plan, c.name, c.type, f't.{sql.quote(c.name)}')} IS DISTINCT FROM",
        "t.{sql.quote(c.name)} IS DISTINCT FROM",
        ("tests/replicas/postgres/test_write.py::test_values_that_sql_takes_for_equal",),
    ),
    Claim(
        "rows-collated",
        "A change that SQL takes for none, as of a to A, is written to SQLite.",
        "gsync/replicas/sqlite/write.py",
        "(+t.{name} COLLATE BINARY IS NOT p.{name}",
        "(t.{name} IS NOT p.{name}",
        ("tests/replicas/sqlite/test_write.py::test_a_change_that_sql_takes_for_none_is_written",),
    ),
    # --- Pairs
    Claim(
        "pairs-base",
        "The base of a pair is what the source had, so the target's own edits are carried back.",
        "gsync/sync/pairs.py",
        "        store.set_tracking(pair, {AGREED: new})\n",
        "        after = _scan(store, target, tables, recorded_tables(base, DATABASE), accept)\n"
        '        made = _next(repo, old, base, after, "")\n'
        "        new = store.put(Kind.MANIFEST, encode_manifest(made)) if made else old\n"
        "        store.set_tracking(pair, {AGREED: new})\n",
        ("tests/sync/test_pairs.py::test_reverse_carries_what_the_target_kept",),
    ),
    Claim(
        "pairs-conflict",
        "A row that both databases changed stops their sync.",
        "gsync/sync/pairs.py",
        "            elif live != old:\n                conflicts += 1\n",
        "            elif live != old:\n                conflicts += force\n",
        ("tests/sync/test_pairs.py::test_same_row_on_both_sides_conflicts",),
    ),
    # --- Configuration
    Claim(
        "config-reaches-out",
        "The shared file, which a pull can change, holds no URL.",
        "gsync/config.py",
        "    if _CONNECTS.search(text):\n",
        "    if _CONNECTS.search(text) and not text:\n",
        (
            "tests/test_config.py::test_shared_file_cannot_reach_out",
            "tests/test_config.py::test_tables_rejected",
        ),
    ),
    Claim(
        "config-commands",
        "The shared file names no command.",
        "gsync/config.py",
        "    if words & _COMMANDS:\n",
        "    if words > _COMMANDS:\n",
        ("tests/test_config.py::test_shared_file_cannot_reach_out",),
    ),
    Claim(
        "password-in-url",
        "The URL of a remote holds no password or token.",
        "gsync/urls.py",
        '    if "@" in authority:\n',
        '    authority = authority.rpartition("@")[2]\n    if not authority:\n',
        ("tests/test_config.py::test_urls_rejected",),
    ),
    Claim(
        "password-in-database-url",
        "The URL of a database that is written down holds no password.",
        "gsync/urls.py",
        "    if (colon or in_query) and not with_password or in_query:\n",
        "    if in_query:\n",
        ("tests/test_config.py::test_database_urls",),
    ),
    Claim(
        "plain-http",
        "A token goes unencrypted nowhere but to loopback.",
        "gsync/urls.py",
        'if scheme == "http" and not insecure_http and not _LOOPBACK.fullmatch(host):',
        'if scheme == "http" and not insecure_http and not _LOOPBACK.match(host):',
        ("tests/test_config.py::test_urls_rejected",),
    ),
)
