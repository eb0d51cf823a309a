// SPDX-License-Identifier: MIT
#include "storage/disks/import_disk.h"

#include <algorithm>
#include <filesystem>

#include "base/text.h"
#include "storage/disks/create_disk.h"
#include "storage/disks/import_copy.h"

namespace volchain::storage {
namespace {

namespace fs = std::filesystem;

/// More layers than anybody has; libvirt's limit is 200.
constexpr std::size_t max_layers = 1000;

struct Layer {
    Catalog::Place place;
    VolumeFacts facts;
};

/// The image's path relative to the pool. The directory is looked up here; links in it are followed, as the
/// caller named them. The file itself must not be one.
std::string file_in_pool(const std::string& pool, const std::string& path) {
    fs::path image(path);
    if (std::find(image.begin(), image.end(), "..") != image.end())
        throw Error(ErrorCode::invalid_argument, "path {} contains '..'", quote(path));
    if (path.empty() || image.filename().empty() || image.filename() == ".")
        throw Error(ErrorCode::invalid_argument, "path {} names no file", quote(path));
    if (image.is_relative()) image = fs::path(pool) / image;
    std::error_code failure;
    const fs::path directory = fs::canonical(image.parent_path(), failure);
    if (failure) throw system_error(failure.value(), "cannot use " + quote(path));
    const fs::path relative = (directory / image.filename()).lexically_relative(pool);
    if (relative.empty() || *relative.begin() == "..")
        throw Error(
            ErrorCode::invalid_argument,
            "{} is not in the pool's directory {}: an import is made in place; with option 'copy' of a "
            "copy in the pool",
            quote(path), quote(pool));
    return relative.string();
}

void check_known_layer(const Catalog& catalog, const VolumeRecord& volume,
                       const BackingReference& reference) {
    if (word(volume.format) != reference.format)
        throw Error(ErrorCode::unsafe_image, "the image says that its backing file {} is {}, but {} is {}",
                    quote(reference.name), quote(reference.format),
                    catalog.describe({ObjectKind::volume, volume.id}), word(volume.format));
    const DiskRecord& disk = catalog.disk(volume.disk);
    if (disk.active == volume.id || disk.former == volume.id)
        throw Error(ErrorCode::in_use,
                    "the image's backing file {} is the {}active volume of {}: what is written to it "
                    "would change the imported disk",
                    quote(reference.name), disk.active == volume.id ? "" : "formerly ",
                    catalog.describe({ObjectKind::disk, disk.id}));
}

/// The layers from the image down to the bottom, or to the first that is a volume already.
async::Task<std::vector<Layer>> read_chain(Engine& engine, Catalog::Place top,
                                           std::optional<VolumeFormat> format) {
    const Catalog& catalog = engine.catalog();
    std::vector<Layer> layers;
    std::vector<std::string> paths;
    std::optional<Catalog::Place> place = top;
    while (place) {
        const std::string pool = catalog.pool(place->pool).path;
        paths.push_back(pool + "/" + place->file);
        auto inspect = [pool, file = place->file, format] {
            return inspect_foreign_image(pool, file, format);
        };
        VolumeFacts facts = co_await engine.files().run(std::move(inspect));
        const auto reference = facts.backing;
        layers.push_back(Layer{*place, std::move(facts)});
        place.reset();
        if (!reference) break;
        if (layers.size() == max_layers ||
            std::find(paths.begin(), paths.end(), reference->path) != paths.end())
            throw Error(ErrorCode::broken_chain, "the chain below {} {}", quote(paths.front()),
                        layers.size() == max_layers ? "is longer than 1000 images" : "comes back to itself");
        if (const VolumeRecord* known = catalog.find_volume(reference->path)) {
            check_known_layer(catalog, *known, *reference);
            break;
        }
        place = catalog.place(reference->path);
        if (!place)
            throw Error(ErrorCode::unsafe_image,
                        "the backing file {} of {} is in no pool; register its directory as one",
                        quote(reference->path), quote(paths.back()));
        format = from_word<VolumeFormat>(reference->format);
    }
    co_return layers;
}

async::Task<> run(Engine& engine, JobPtr job, ImportRequest request) {
    Catalog& catalog = engine.catalog();
    co_await job->step("read");
    auto locate = [pool = catalog.pool(request.pool).path, path = request.path] {
        return file_in_pool(pool, path);
    };
    const std::string file = co_await engine.files().run(std::move(locate));
    const std::string path = catalog.pool(request.pool).path + "/" + file;
    if (const VolumeRecord* known = catalog.find_volume(path))
        throw Error(ErrorCode::already_exists, "{} is a volume of {} already", quote(path),
                    catalog.describe({ObjectKind::disk, known->disk}));
    for (const RestoredDisk& restored : catalog.restored_disks())
        if (catalog.pool(restored.pool).path + "/" + restored.file == path)
            throw Error(ErrorCode::in_use, "{} is being restored as disk {}", quote(path),
                        quote(restored.name));
    // A pool may lie in another's directory: the deepest one counts.
    const Catalog::Place top = catalog.place(path).value();
    std::vector<Layer> layers = co_await read_chain(engine, top, request.format);

    co_await job->step("finish");
    std::vector<std::string> taken;
    for (const auto& [id, disk] : catalog.disks()) taken.push_back(disk.name);
    for (const std::string& name : catalog.claimed_disk_names()) taken.push_back(name);
    DiskRecord disk;
    disk.id = Uuid::make();
    disk.name = request.name.empty() ? free_name(fs::path(file).stem().string(), taken) : request.name;
    const Catalog::DiskNameClaim claim(catalog, disk.name);
    Changes changes;
    for (Layer& layer : layers) {
        VolumeRecord volume{Uuid::make(),           disk.id, layer.place.pool, layer.place.file,
                            format_of(layer.facts), now()};
        if (disk.active.nil()) disk.active = volume.id;
        catalog.set_facts(volume.id, std::move(layer.facts));
        changes.put(std::move(volume));
    }
    Json result;
    result["disk"] = object_json({ObjectKind::disk, disk.id});
    result["volume"] = object_json({ObjectKind::volume, disk.active});
    changes.put(std::move(disk));
    job->no_return();
    co_await job->succeed(std::move(changes), std::move(result));
}

}  // namespace

async::Task<Uuid> import_disk(Engine& engine, ImportRequest request) {
    (void)engine.catalog().pool(request.pool);
    if (!request.name.empty()) {
        check_name("disk", request.name);
        check_disk_name_free(engine.catalog(), request.name);
    }
    JobRequest job("import-disk", {ObjectKind::pool, request.pool}, request.owner_uid);
    Operation operation = [&engine, request](JobPtr started) {
        if (request.copy) return copy_and_import(engine, std::move(started), request);
        return run(engine, std::move(started), request);
    };
    co_return co_await engine.jobs().start(std::move(job), std::move(operation));
}

}  // namespace volchain::storage
