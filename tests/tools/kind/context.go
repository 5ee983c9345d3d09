package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// context FOLDER IGNORE-FILE: the files that a build of the folder gets.
func files(arguments []string) ([]byte, error) {
	if len(arguments) != 2 {
		return nil, errors.New("usage: context FOLDER IGNORE-FILE")
	}
	file, err := os.Open(arguments[1])
	if err != nil {
		return nil, err
	}
	defer file.Close()
	patterns, err := ignorefile.ReadAll(file)
	if err != nil {
		return nil, err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	root, sent := arguments[0], []string{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			// Nothing in there is in doubt, and there are many thousands of files.
			if name := entry.Name(); name == "target" || name == ".git" {
				return fs.SkipDir
			}
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		ignored, err := matcher.MatchesOrParentMatches(name)
		if err == nil && !ignored {
			sent = append(sent, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(sent)
}
