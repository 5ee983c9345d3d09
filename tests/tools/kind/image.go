package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// What BuildKit makes of a Containerfile, without building it.
type made struct {
	// What BuildKit finds to complain about.
	Warnings []warning `json:"warnings"`
	// The configuration of the image.
	Config ocispecs.ImageConfig `json:"config"`
	// Images that it is built from and for, and the platform that is asked for.
	Bases map[string]string `json:"bases"`
	// The commands that are run, with their environment and mounts.
	Commands []command `json:"commands"`
	// Where files come to lie that are copied from another stage.
	Copies []string `json:"copies"`
}

type warning struct {
	Rule   string `json:"rule"`
	Detail string `json:"detail"`
}

type command struct {
	Arguments []string `json:"arguments"`
	Env       []string `json:"env"`
	Folder    string   `json:"folder"`
	Caches    []cache  `json:"caches"`
}

type cache struct {
	Id     string `json:"id"`
	Target string `json:"target"`
	Shared string `json:"shared"`
}

// Answers for the registry: every image is there, for the platform that is asked for.
// It is asked for several at once.
type registry struct {
	lock  *sync.Mutex
	bases map[string]string
}

func (r registry) ResolveImageConfig(_ context.Context, reference string, options sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	platform := *options.ImageOpt.Platform
	r.lock.Lock()
	r.bases[reference] = platforms.Format(platform)
	r.lock.Unlock()
	config := ocispecs.Image{Platform: platform}
	// Not empty: it would be taken for `scratch`.
	config.RootFS = ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(reference)}}
	text, err := json.Marshal(config)
	return reference, "", text, err
}

// image CONTAINERFILE BUILD-PLATFORM TARGET-PLATFORM [NAME=VALUE]...
func image(arguments []string) ([]byte, error) {
	if len(arguments) < 3 {
		return nil, errors.New("usage: image CONTAINERFILE BUILD-PLATFORM TARGET-PLATFORM [NAME=VALUE]...")
	}
	text, err := os.ReadFile(arguments[0])
	if err != nil {
		return nil, err
	}
	build, err := platforms.Parse(arguments[1])
	if err != nil {
		return nil, err
	}
	target, err := platforms.Parse(arguments[2])
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, argument := range arguments[3:] {
		name, value, _ := strings.Cut(argument, "=")
		values[name] = value
	}
	bases := registry{&sync.Mutex{}, map[string]string{}}
	result := made{Warnings: []warning{}, Bases: bases.bases}
	options := dockerfile2llb.ConvertOpt{
		Config: dockerui.Config{
			BuildArgs:       values,
			BuildPlatforms:  []ocispecs.Platform{build},
			TargetPlatforms: []ocispecs.Platform{target},
		},
		TargetPlatform: &target,
		MetaResolver:   bases,
		Warn: func(rule, _, _, detail string, _ []parser.Range) {
			bases.lock.Lock()
			defer bases.lock.Unlock()
			result.Warnings = append(result.Warnings, warning{rule, detail})
		},
	}
	converted, err := dockerfile2llb.Dockerfile2LLB(context.Background(), text, options)
	if err != nil {
		return nil, err
	}
	result.Config = converted.Image.Config.ImageConfig
	definition, err := converted.State.Marshal(context.Background(), llb.Platform(target))
	if err != nil {
		return nil, err
	}
	if err := result.read(definition); err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// The operations, in the order in which they depend on each other.
func (m *made) read(definition *llb.Definition) error {
	for _, bytes := range definition.Def {
		var operation pb.Op
		if err := operation.UnmarshalVT(bytes); err != nil {
			return err
		}
		if run := operation.GetExec(); run != nil {
			meta := run.Meta
			m.Commands = append(m.Commands, command{meta.Args, meta.Env, meta.Cwd, caches(run.Mounts)})
		}
		for _, action := range operation.GetFile().GetActions() {
			if copied := action.GetCopy(); copied != nil {
				m.Copies = append(m.Copies, copied.Src+" "+copied.Dest)
			}
		}
	}
	return nil
}

func caches(mounts []*pb.Mount) []cache {
	all := []cache{}
	for _, mount := range mounts {
		if options := mount.CacheOpt; options != nil {
			all = append(all, cache{options.ID, mount.Dest, options.Sharing.String()})
		}
	}
	return all
}
