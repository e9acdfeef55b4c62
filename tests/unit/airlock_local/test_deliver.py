import os
import stat

import pytest

from airlock.storage.s3uri import S3Uri
from airlock_local.buckets import local_client, make_buckets
from airlock_local.deliver import LocalFile, SourceError, check_room, files_below, prefix_of, upload
from tests.servers.moto import moto_server

TARGET = S3Uri("airlock-archive", "deliveries/mine/")


@pytest.fixture
def s3():
    with moto_server() as endpoint:
        client = local_client(endpoint)
        make_buckets(client, [TARGET.bucket])
        yield client


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "delivery"
    (root / "study 1/series+1").mkdir(parents=True)
    (root / "study 1/series+1/im é 001.dcm").write_bytes(b"one")
    (root / "study 1/%41&b=c?.dcm").write_bytes(b"two")
    (root / "empty").write_bytes(b"")
    return root


def listed(client):
    found = client.list_objects_v2(Bucket=TARGET.bucket).get("Contents", [])
    return {item["Key"].removeprefix(TARGET.key): item["Size"] for item in found}


class TestFolder:
    def test_every_file_is_found_under_its_own_name(self, folder):
        assert [file.name for file in files_below(folder)] == [
            "empty",
            "study 1/%41&b=c?.dcm",
            "study 1/series+1/im é 001.dcm",
        ]

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(SourceError, match=r"nowhere does not exist. Name a folder or an s3:// prefix"):
            files_below(tmp_path / "nowhere")

    def test_an_empty_folder_is_named(self, tmp_path):
        (tmp_path / "only/folders").mkdir(parents=True)
        with pytest.raises(SourceError, match=r"holds no file\. Name a folder with files"):
            files_below(tmp_path)

    def test_a_file_is_no_folder(self, folder):
        with pytest.raises(SourceError, match=r"empty is a file\. Name the folder that holds it"):
            files_below(folder / "empty")

    def test_a_link_to_nothing_cannot_be_read(self, folder):
        (folder / "gone.dcm").symlink_to("nowhere.dcm")
        with pytest.raises(SourceError, match=r"gone\.dcm is a link to a file that does not exist"):
            files_below(folder)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_a_file_without_the_right_to_read_it_is_named(self, folder):
        (folder / "empty").chmod(0)
        with pytest.raises(SourceError, match=r"empty cannot be read \(Permission denied\)\. Let your user read it"):
            files_below(folder)

    def test_linked_files_are_delivered_and_linked_folders_are_named_not_entered(self, folder, tmp_path, capsys):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/other.dcm").write_bytes(b"x")
        (folder / "linked.dcm").symlink_to(tmp_path / "elsewhere/other.dcm")
        (folder / "again").symlink_to(folder)
        names = [file.name for file in files_below(folder)]
        assert "linked.dcm" in names
        assert not [name for name in names if name.startswith("again")]
        assert "1 linked folder(s)" in capsys.readouterr().out

    def test_a_pipe_is_no_file(self, folder):
        os.mkfifo(folder / "pipe")
        assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
        assert "pipe" not in [file.name for file in files_below(folder)]

    def test_a_name_that_is_no_utf8_keeps_a_key_of_its_own(self, folder):
        (folder / os.fsdecode(b"caf\xe9.dcm")).write_bytes(b"latin")
        assert "caf\\xe9.dcm" in [file.name for file in files_below(folder)]

    def test_more_than_memory_holds_is_refused_before_it_is_tried(self, folder):
        with pytest.raises(SourceError, match=r"The files are 9999\.0 GB and the local S3 keeps objects in memory"):
            check_room([LocalFile(folder / "empty", "huge", 9_999 * 10**9)])


class TestPrefix:
    @pytest.mark.parametrize(
        ("name", "readable"),
        [
            ("archive", "archive"),
            ("Jan 2026 (é) + more", "Jan-2026-more"),
            ("..hidden", "hidden"),
            ("日本", "folder"),
            ("a/b", "b"),
        ],
    )
    def test_it_is_the_folders_name_as_s3_likes_it(self, tmp_path, name, readable):
        prefix = prefix_of(tmp_path / name)
        assert prefix[: -len("-01234567/")] == readable
        assert prefix.endswith("/")

    def test_two_folders_of_one_name_have_two(self, tmp_path):
        assert prefix_of(tmp_path / "a/archive") != prefix_of(tmp_path / "b/archive")

    def test_one_folder_has_one_however_it_is_named(self, tmp_path):
        (tmp_path / "a").mkdir()
        assert prefix_of(tmp_path / "a") == prefix_of(tmp_path / "a/../a")


class TestUpload:
    def test_every_file_becomes_an_object_under_its_name(self, s3, folder):
        assert upload(s3, files_below(folder), TARGET) == (3, 0)
        assert listed(s3) == {"empty": 0, "study 1/%41&b=c?.dcm": 3, "study 1/series+1/im é 001.dcm": 3}

    def test_a_second_time_nothing_changes(self, s3, folder):
        upload(s3, files_below(folder), TARGET)
        before = s3.list_objects_v2(Bucket=TARGET.bucket)["Contents"]
        assert upload(s3, files_below(folder), TARGET) == (0, 3)
        assert s3.list_objects_v2(Bucket=TARGET.bucket)["Contents"] == before

    def test_a_file_of_the_same_size_with_other_content_is_put_again(self, s3, folder):
        upload(s3, files_below(folder), TARGET)
        (folder / "study 1/%41&b=c?.dcm").write_bytes(b"TWO")
        assert upload(s3, files_below(folder), TARGET) == (1, 2)
        got = s3.get_object(Bucket=TARGET.bucket, Key=TARGET.key + "study 1/%41&b=c?.dcm")
        assert got["Body"].read() == b"TWO"

    def test_a_file_that_goes_away_meanwhile_is_named(self, s3, folder):
        files = files_below(folder)
        (folder / "empty").unlink()
        with pytest.raises(SourceError, match=r"empty cannot be read \(No such file or directory\)"):
            upload(s3, files, TARGET)

    def test_buckets_are_made_once(self, s3):
        make_buckets(s3, [TARGET.bucket, "airlock-output"])
        make_buckets(s3, [TARGET.bucket, "airlock-output"])
        assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {TARGET.bucket, "airlock-output"}
